"""A rule for where the depot is: a neighbour answers there as one of this site does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelsync_daemon.network.networks import Networks
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol.policy.network_rules import parse_rules
from tests.support.addresses import free_port
from tests.support.certificates import Authority
from tests.support.neighbours import Neighbour

RULES = parse_rules([{"name": "depot", "neighbour": True}, {"name": "road", "neighbour": False}])


async def _in_force(access: SiteAccess | None) -> tuple[str, int]:
    """The rule's name, and what asking cost."""
    cost = [0, 0]

    def count(received: int, sent: int) -> None:
        cost[0], cost[1] = cost[0] + received, cost[1] + sent

    networks = Networks(lambda: RULES, lambda: "http://127.0.0.1:9", lambda: access, count)
    await networks.look()
    assert networks.now is not None and networks.now.neighbour is (networks.name() == "depot")
    return networks.name(), sum(cost)


def _keys(folder: Path) -> dict[str, str]:
    authority = Authority(folder)
    authority.server()
    own = str(folder / "127.0.0.1-1.pem")
    return {"cert": own, "key": own, "ca": str(authority.path)}


async def test_only_one_of_the_same_site_is_a_neighbour(tmp_path: Path) -> None:
    port = free_port()
    async with Neighbour(tmp_path / "other", tmp_path / "root.json", port, []) as other:
        mine = replace(other.access, me=f"127.0.0.1:{free_port()}", peers=(f"127.0.0.1:{port}",))
        name, cost = await _in_force(mine)
        assert name == "depot" and 0 < cost < 1000
        assert (await _in_force(replace(mine, name="another")))[0] == "road"
        assert (await _in_force(replace(mine, peers=())))[0] == "road"
        assert (await _in_force(None))[0] == "road"
    assert (await _in_force(mine))[0] == "road", "it went"


async def test_who_has_no_key_of_the_site_is_none(tmp_path: Path) -> None:
    ours, foreign = _keys(tmp_path / "ours"), _keys(tmp_path / "foreign")
    port = free_port()
    async with Neighbour(tmp_path / "other", tmp_path / "root.json", port, [], **ours) as other:
        mine = replace(other.access, me=f"127.0.0.1:{free_port()}", peers=(f"127.0.0.1:{port}",))
        assert (await _in_force(mine))[0] == "depot"
        assert (await _in_force(SiteAccess(**{**mine.document(), **foreign})))[0] == "road"
        assert (await _in_force(replace(mine, cert="", key="", ca="")))[0] == "road"
