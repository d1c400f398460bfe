"""`torchslots completion`."""

from typing import Annotated, Literal

import tyro

from torchslots.cli.options import Words, parse

_SCRIPT = """\
# Completion of torchslots. bash:
#   torchslots completion bash > ~/.local/share/bash-completion/completions/torchslots
# zsh: put `autoload -U bashcompinit && bashcompinit` and `source FILE` into ~/.zshrc.
_torchslots() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""
    local recipes="@recipes@"
    local datasets="@datasets@"
    case "$before" in
        --data|--data.dataset) words="$datasets" ;;
        --features) words="$recipes" ;;
        --system) words="@systems@" ;;
    esac
    if [ -z "$words" ]; then
        case "$COMP_CWORD:${COMP_WORDS[1]}" in
            1:*) words="@commands@" ;;
            2:train|2:recipes|2:bench) words="$recipes" ;;
            2:data) words="@data@" ;;
            2:pretrained) words="@pretrained@" ;;
            2:completion) words="bash zsh" ;;
            3:data)
                case "${COMP_WORDS[2]}" in
                    prepare) words="$recipes $datasets" ;;
                    list|download|inspect) words="$datasets" ;;
                esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _torchslots torchslots
"""


def completion(words: Words) -> int:
    """`torchslots completion bash`."""

    def of_shell(shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional] = "bash", /) -> None:
        """Print a script that completes commands, recipes, data sets and demonstrations; file names otherwise.

        Names are those of this version: write the script again after an update.

        Args:
            shell: The script is the same; its head says how each loads it.
        """
        print(script(), end="")

    parse(of_shell, words, "completion")
    return 0


def script() -> str:
    """The script, with the names of this version."""
    from torchslots.cli import COMMANDS
    from torchslots.cli.data import COMMANDS as DATA
    from torchslots.cli.pretrained import COMMANDS as PRETRAINED
    from torchslots.data.catalog import DATASETS
    from torchslots.recipes.catalog import RECIPES
    from torchslots.recipes.demos import DEMOS

    tables = {
        "commands": COMMANDS,
        "recipes": RECIPES,
        "datasets": DATASETS,
        "systems": DEMOS,
        "data": DATA,
        "pretrained": PRETRAINED,
    }
    text = _SCRIPT
    for name, table in tables.items():
        text = text.replace(f"@{name}@", " ".join(table))
    return text
