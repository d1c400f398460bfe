"""List a data set's files in a public bucket of Google Cloud Storage."""

import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from torchslots.data.download.http import Refused, RemoteFile, fetch
from torchslots.io.json_files import parse_json

STORAGE = "https://storage.googleapis.com"
SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<index>\d{5,})-of-(?P<count>\d{5,})")


def checked_info(info: Any) -> dict[str, Any]:
    """Check a dataset_info.json and return it.

    Raises:
        ValueError: it lists no splits or shards.
    """
    splits = info.get("splits") if isinstance(info, dict) else None
    if not isinstance(splits, list) or not splits or "name" not in info:
        raise ValueError("dataset_info.json lists no splits")
    for split in splits:
        plain = re.fullmatch(r"\w+", split["name"]) and re.fullmatch(r"\w+", info["name"])
        if not plain or not all(str(length).isdecimal() for length in split["shardLengths"]):
            raise ValueError("dataset_info.json lists no shards")
    return info


def offered_files(host: str, bucket: str, prefix: str, info: dict[str, Any]) -> list[RemoteFile]:
    """A data set's files by the bucket's list; where that is refused, by the shards in dataset_info.json."""
    try:
        return list(listing(host, bucket, prefix))
    except Refused:
        names = [shard for split in info.get("splits", []) for shard in shard_names(info, split)]
        return [RemoteFile(f"{host}/{bucket}/{prefix}/{name}", name) for name in [*names, "features.json"]]


def listing(host: str, bucket: str, prefix: str) -> Iterator[RemoteFile]:
    """Files in a folder of a bucket, with sizes and checksums.

    Raises:
        Refused: the bucket lists nothing.
        Broken: no answer.
        ValueError, KeyError, TypeError: the answer is no list.
    """
    query = {"prefix": f"{prefix}/", "maxResults": "1000", "fields": "items(name,size,md5Hash),nextPageToken"}
    while True:
        page = parse_json(fetch(f"{host}/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"))
        for item in page.get("items", []):
            name = item["name"].removeprefix(f"{prefix}/")
            if re.fullmatch(r"[\w.+-]+", name) and not name.startswith("."):
                url = f"{host}/{bucket}/{urllib.parse.quote(item['name'])}"
                yield RemoteFile(url, name, int(item["size"]), item.get("md5Hash"))
        if "nextPageToken" not in page:
            return
        query["pageToken"] = page["nextPageToken"]


def shard_names(info: dict[str, Any], split: dict[str, Any]) -> list[str]:
    """The names of a split's files, as published."""
    count = len(split["shardLengths"])
    return [f"{info['name']}-{split['name']}.tfrecord-{i:05d}-of-{count:05d}" for i in range(count)]
