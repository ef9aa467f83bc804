"""Two hosts on one machine: network namespaces, joined by a veth pair and the file system alone."""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class Host:
    """One of two hosts: its rank and its namespace, not yet made."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.link = f"{name}-eth"
        self.address = f"10.87.13.{number + 1}"

    def connect(self) -> None:
        """Gives its end of the cable an address."""
        _ip("link", "set", self.link, "netns", self.name)
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", self.link)
        self.set("lo", "up")
        self.set(self.link, "up")

    def set(self, device: str, state: str) -> None:
        """Plugs a cable in (`up`) or pulls it."""
        _ip("-n", self.name, "link", "set", device, state)

    def vanish(self, process: int) -> None:
        """Pulls the cable, so that no connection is closed, then kills a process group."""
        self.set(self.link, "down")
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)

    def inside(self, work: Callable[[], int | None], master: str) -> Callable[[], int | None]:
        """`work`, to be done in a process of its own on this host, as the only one of its rank."""

        def there() -> int | None:
            with open(f"/var/run/netns/{self.name}", encoding="ascii") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), "setns")
            # What Lightning's own environment wants to know on each machine
            os.environ.update(MASTER_ADDR=master, MASTER_PORT="29531", NODE_RANK=str(self.number), LOCAL_RANK="0")
            os.environ.update(WORLD_SIZE="2", GLOO_SOCKET_IFNAME=self.link)
            return work()

        return there


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two connected hosts, removed at the end."""
    hosts = [Host(number, f"d2g{os.getpid() % 100000}{letter}") for number, letter in enumerate("ab")]
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        _ip("link", "add", hosts[0].link, "type", "veth", "peer", "name", hosts[1].link)
        for host in hosts:
            host.connect()
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)


def why_not() -> str | None:
    """Why there can be no two hosts here; None if there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces take root and `ip` (apt-get install iproute2)"
    try:
        with two_hosts():
            return None
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"no network namespaces or veth pairs here ({said.strip()})"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
