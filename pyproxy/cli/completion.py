"""`pyproxy completion`: for bash, zsh and fish, a script made from the tables in `flags.py` and `verbs.py`.

Each stands by itself: no file of a package for completion is needed, and pyproxy is not run for a completion. What can
be known from the tables is completed: subcommands, flags, words to choose from, and directories; for anything else
nothing is offered, and no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyproxy.cli.help import described
from pyproxy.cli.parser import Parser
from pyproxy.cli.verbs import HELP, VERBS
from pyproxy.flags import CHOICE, FOLDER, OPTIONS, SWITCH, Option


class Context(NamedTuple):
    """What may come after `pyproxy`, which `name` "" stands for, or after a subcommand."""

    name: str
    options: tuple[Option, ...]
    argument: Option | None


def main(arguments: list[str]) -> int:
    """Run `pyproxy completion`; return its exit status."""
    print(script(Parser("completion").read(arguments).shell), end="")
    return 0


def script(shell: str) -> str:
    """For `shell`, one of bash, zsh and fish."""
    return _SHELLS[shell]()


def contexts() -> Iterator[Context]:
    """All that there are, pyproxy itself first."""
    yield Context("", tuple(OPTIONS.values()), None)
    for name, verb in VERBS.items():
        yield Context(name, (*verb.all_options, HELP) if name != "help" else (), verb.argument)


def _bash() -> str:
    values, flags, words = [], [], [f"    '') words='{' '.join(VERBS)}' ;;"]
    for context in contexts():
        values += [f"    {context.name}:{option.name}) {_bash_value(option)} ;;" for option in _valued(context.options)]
        flags.append(f"    '{context.name}') flags='{' '.join(_names(context.options))}' ;;")
        if context.argument is not None and context.argument.choices:
            words.append(f"    '{context.name}') words='{' '.join(context.argument.choices)}' ;;")
    return _BASH.format(values="\n".join(values), flags="\n".join(flags), words="\n".join(words))


def _bash_value(option: Option) -> str:
    if option.kind == CHOICE:
        return f"""_pyproxy_words "$cur" '{" ".join(option.choices)}'; return"""
    return '_pyproxy_folders "$cur"; return' if option.kind == FOLDER else "return"


def _zsh() -> str:
    verbs = "\n".join(f"    {_quoted(f'{name}:{verb.summary}')}" for name, verb in VERBS.items())
    cases = []
    for context in contexts():
        specs = [spec for option in context.options for spec in _zsh_option(option)]
        if context.argument is not None:
            specs.append(_quoted(f"1:{context.argument.name}:{_zsh_action(context.argument)}"))
        specs += [] if context.name else ["'1: :->subcommand'"]
        cases.append(f"  '{context.name}')\n    specs=(\n      " + "\n      ".join(specs) + "\n    ) ;;")
    return _ZSH.format(verbs=verbs, cases="\n".join(cases))


def _zsh_option(option: Option) -> Iterator[str]:
    """One dash and two; a value as the next word, or after a `=`."""
    meaning = _zsh_escaped(described(option))
    for name in _names((option,)):
        for dashes in ("-", "--") if name != option.short else ("-",):
            if option.kind == SWITCH:
                yield _quoted(f"{dashes}{name}[{meaning}]")
            else:
                yield _quoted(f"{dashes}{name}=[{meaning}]:{_zsh_escaped(option.value)}:{_zsh_action(option)}")


def _zsh_action(option: Option) -> str:
    if option.kind == CHOICE:
        return f"({' '.join(option.choices)})"
    return "_files -/" if option.kind == FOLDER else " "


def _zsh_escaped(text: str) -> str:
    for letter in "\\[]:":
        text = text.replace(letter, f"\\{letter}")
    return text


def _fish() -> str:
    none, after = "__fish_pyproxy_in ''", "__fish_pyproxy_in"
    lines = [_FISH]
    for name, verb in VERBS.items():
        lines.append(f'complete -c pyproxy -n "{none}" -a {name} -d {_fish_quoted(verb.summary)}')
    for context in contexts():
        where = f"complete -c pyproxy -n \"{after} '{context.name}'\""
        lines += [f"{where} {_fish_option(option)}" for option in context.options]
        if context.argument is not None and context.argument.choices:
            lines.append(f"{where} -a {_fish_quoted(' '.join(context.argument.choices))}")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    # Long and old style: --name and -name.
    words = [f"-l {option.name} -o {option.name}"]
    words += [f"-s {option.short}"] if option.short else []
    words += [] if option.kind == SWITCH else ["-x"]  # with a value, which is no file
    words += [f"-a {_fish_quoted(' '.join(option.choices))}"] if option.kind == CHOICE else []
    words += ['-a "(__fish_complete_directories)"'] if option.kind == FOLDER else []
    return " ".join([*words, f"-d {_fish_quoted(described(option))}"])


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quoted(text: str) -> str:
    """A word to a POSIX shell, and to zsh."""
    escaped = text.replace("'", "'\\''")
    return f"'{escaped}'"


def _valued(options: Iterable[Option]) -> Iterator[Option]:
    return (option for option in options if option.kind != SWITCH)


def _names(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        yield from (option.short, option.name) if option.short else (option.name,)


# For readline `=` parts words, so that what is before and after it are words of their own.
_BASH = """\
# bash completion for pyproxy, made by `pyproxy completion bash`.

_pyproxy_words() {{
    mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
}}

_pyproxy_folders() {{
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -d -- "$1")
}}

_pyproxy() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} verb='' flags='' words='' dashes name
    COMPREPLY=()
    if [[ $cur == '=' ]]; then
        cur=''
    elif [[ $prev == '=' ]]; then
        prev=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    if ((COMP_CWORD > 1)) && [[ ${{COMP_WORDS[1]}} != -* ]]; then
        verb=${{COMP_WORDS[1]}}
    fi
    name=${{prev#-}}
    [[ $prev != -* ]] || case $verb:${{name#-}} in
{values}
    esac
    case $verb in
{flags}
    *) return ;;
    esac
    if [[ $cur == -* ]]; then
        dashes=-
        [[ $cur != --* ]] || dashes=--
        for name in $flags; do
            [[ $dashes$name == --? ]] || words+=" $dashes$name"
        done
    elif ((COMP_CWORD == 1)) || [[ $verb ]]; then
        case $verb in
{words}
        esac
    fi
    _pyproxy_words "$cur" "$words"
}}

complete -F _pyproxy pyproxy
"""

_ZSH = """\
#compdef pyproxy
# zsh completion for pyproxy, made by `pyproxy completion zsh`.

_pyproxy() {{
  local context state line verb=''
  local -a specs verbs
  verbs=(
{verbs}
  )
  if (( CURRENT > 2 )) && [[ $words[2] != -* ]]; then
    verb=$words[2]
    shift words
    (( CURRENT-- ))
  fi
  case $verb in
{cases}
  *) return 1 ;;
  esac
  _arguments -S $specs && return 0
  [[ $state == subcommand ]] && _describe subcommand verbs
}}

if [[ $funcstack[1] == _pyproxy ]]; then
  _pyproxy "$@"
else
  compdef _pyproxy pyproxy
fi
"""

_FISH = """\
# fish completion for pyproxy, made by `pyproxy completion fish`.

# Whether the first word after pyproxy is this one; '': whether there is none, or a flag.
function __fish_pyproxy_in
    set -l words (commandline -opc)
    set -e words[1]
    if test -z "$argv[1]"
        test (count $words) -eq 0; or string match -q -- '-*' $words[1]
    else
        test (count $words) -gt 0; and test "$words[1]" = "$argv[1]"
    end
end

complete -c pyproxy -f"""

_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
