"""Completion in a real bash, for commands, options, and what stands behind -o."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from umktls_fs.optionhelp import complete
from umktls_fs.optiontable import OPTIONS, Fate

SCRIPTS = Path(__file__).parents[2] / "contrib" / "completion"

# As bash sets the stage when Tab is pressed at the end of a line; the function is asked for what
# it offers in place of the last of bash's words.
BASH = """
source "$1"
COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}
_umktls umktls
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(line: str) -> list[str]:
    """What Tab offers behind `line`, as bash would put it in."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(SCRIPTS / "bash" / "umktls"), line],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("umktls do", {"doctor"}),
        ("umktls st", {"stat"}),
        ("umktls serve --squ", {"--squash"}),
        ("umktls serve --squash ", {"none", "root", "all"}),
        ("umktls mount localhost:/ /mnt -o mt", {"mtls"}),
        ("umktls mount localhost:/ /mnt -o ro,xprt", {"ro,xprtsec="}),
        # bash takes what is in front of the = for a word of its own.
        ("umktls mount localhost:/ /mnt -o ro,xprtsec=", {"none", "tls", "mtls"}),
        ("umktls mount localhost:/ /mnt -o ro,xprtsec=m", {"mtls"}),
        ("umktls mount [::1]:2049:/ /mnt -o alpn=c", {"compat"}),
        ("umktls cat nfs://localhost/ -o mt", {"mtls"}),
        # `stat` is of hosts, and with a URL of a file.
        ("umktls stat --js", {"--json"}),
        ("umktls stat --tls", {"--tls_stat"}),
        ("umktls stat nfs://localhost/ --deref", {"--dereference"}),
        ("umktls stat nfs://localhost/ -o mt", {"mtls"}),
    ],
)
def test_bash(line: str, expected: set[str]) -> None:
    assert expected <= set(offered(line))
    if len(expected) == 1:
        assert all(word.startswith(line.split()[-1].split("=")[-1]) for word in offered(line))


def test_options_that_are_refused_are_not_offered() -> None:
    words = offered("umktls mount localhost:/ /mnt -o ")
    assert "mtls" in words
    assert "udp" not in words


def test_every_option_that_is_taken_is_offered() -> None:
    words = set(offered("umktls mount localhost:/ /mnt -o "))
    assert {word.rstrip("=") for word in words} == {
        name
        for name, option in OPTIONS.items()
        if option.fate is not Fate.REFUSED and not name.endswith("*")
    }


def test_every_word_of_a_value_is_offered() -> None:
    """Of options whose values are words of a list."""
    lists = {name: option.takes.split("|") for name, option in OPTIONS.items()}
    for name, values in lists.items():
        if len(values) > 1 and "[" not in OPTIONS[name].form:
            texts = [text.rpartition("=")[2] for text, _ in complete(f"ro,{name}=")]
            assert texts == [one for one in values if one.islower()], name


@pytest.mark.parametrize(("shell", "script"), [("zsh", "_umktls"), ("fish", "umktls.fish")])
def test_the_other_shells_are_asked_as_click_says(shell: str, script: str) -> None:
    """Their scripts evaluate what click prints for them; that is tried here as far as the shell
    is there."""
    assert f"_UMKTLS_COMPLETE={shell}_source umktls" in (SCRIPTS / shell / script).read_text()
    program = Path(sys.executable).with_name("umktls")
    source = subprocess.run(
        [program],
        env={**os.environ, "_UMKTLS_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    ).stdout
    assert "_UMKTLS_COMPLETE=" in source
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=source, text=True, timeout=50, check=True)


def test_the_first_tab_in_zsh_completes() -> None:
    """zsh loads the script then, and calls no function of it by itself. Click's own call is for a
    script that is loaded, and not evaluated in one."""
    script = (SCRIPTS / "zsh" / "_umktls").read_text()
    assert '== loadautofunc ]] && _umktls_completion "$@"' in script.splitlines()[-1]
