"""What a program and its children write and whom they speak to, as Linux saw it (strace)."""

import ipaddress
import os
import re
import subprocess
from pathlib import Path

import psutil

OPENED = re.compile(r'openat?\(.*"[^"]*"(?:\.\.\.)?, (?P<flags>[A-Z_|]+).*= \d+<(?P<path>[^>]+)>')
MADE = re.compile(r'^(?:mkdir|symlink|link|mknod)(?:at)?\(.*"(?P<path>[^"]+)"[^"]*\) = 0')
SENT = re.compile(
    r"^(?P<call>connect|sendto|sendmsg|sendmmsg)\(\d+<(?P<kind>TCP|UDP)(?:v6)?:(?P<ends>[^>]*>?[^>]*)>,(?P<rest>.*)"
)
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


class Traced:
    """A program under trace; its HOME and TMPDIR are empty folders of `root`."""

    def __init__(self, root: Path) -> None:
        self.home, self.temporary, self.traces = root / "home", root / "tmp", root / "traces"
        for folder in (self.home, self.temporary, self.traces):
            folder.mkdir(parents=True)
        places = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment = {"PATH": os.environ["PATH"], **places}

    def command(self, *command: object) -> list[str]:
        calls = "openat,open,mkdir,mkdirat,symlink,symlinkat,link,linkat,mknod,mknodat,connect,sendto,sendmsg,sendmmsg"
        asked = ["strace", "-ff", "-qq", "-yy", "-s", "400", "-e", f"trace={calls}", "-o", self.traces / "of"]
        return [str(word) for word in (*asked, *command)]

    def run(self, *command: object, timeout: float = 600) -> subprocess.CompletedProcess:
        """The command, ended with 0."""
        done = subprocess.run(
            self.command(*command), env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def written(self, *allowed: Path) -> set[str]:
        """Files and folders made or opened for writing outside `allowed`; devices and the temporary folder are free."""
        free = tuple(f"{Path(path).resolve()}" for path in (*allowed, self.temporary))
        found = set()
        for line in self._lines():
            if opened := OPENED.search(line):
                if re.search("WRONLY|RDWR|CREAT", opened["flags"]):
                    found.add(opened["path"].removesuffix(" (deleted)"))
            elif made := MADE.search(line):
                found.add(made["path"])
        return {path for path in found if not path.startswith((*free, "/dev/", "/proc/")) and path.startswith("/")}

    def spoke_to(self) -> set[str]:
        """Addresses of other machines that anything was sent to; a UDP socket that connects sends nothing."""
        own = {each.address.split("%")[0] for face in psutil.net_if_addrs().values() for each in face}
        found = set()
        for line in self._lines():
            sent = SENT.search(line)
            if not sent or (sent["call"], sent["kind"]) == ("connect", "UDP"):
                continue
            for address in _addresses(sent):
                if not ipaddress.ip_address(address).is_loopback and address not in own:
                    found.add(address)
        return found

    def _lines(self) -> list[str]:
        return [line for file in self.traces.iterdir() for line in file.read_text(errors="replace").splitlines()]


def _addresses(sent: re.Match) -> set[str]:
    """Where to: named in the call, or by the connection that the socket has."""
    named = {(four or six).removeprefix("::ffff:") for four, six in ADDRESS.findall(sent["rest"])}
    if sent["call"] == "connect" or named:
        return named
    end = re.search(r"->\[?(?:::ffff:)?([0-9a-f.:]+?)\]?:\d+", sent["ends"])
    return {end[1]} if end else set()
