"""What the library does with damaged files and killed writers: `make stress`, and in short form the tests."""
