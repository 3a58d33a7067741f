"""How neighbours find each other: settings and twin; what is wrong is said; a key that leaked keeps devices apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_daemon import config
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.site_ledger import SiteLedger
from modelsync_daemon.site.membership import Membership
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol import twin
from modelsync_protocol.errors import UsageError
from modelsync_protocol.twin import SitePolicy
from tests.support.certificates import Authority
from tests.support.neighbours import Site, all_pull, noise
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


def test_a_table_and_flat_settings_say_the_same(tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    table.write_text('data = "d"\n[site]\naddress = "0.0.0.0:8444"\npeers = ["10.0.0.2:8444"]\nname = "mine-3"\n')
    flat = tmp_path / "flat.toml"
    flat.write_text('data = "d"\nsite_address = "0.0.0.0:8444"\nsite_peers = ["10.0.0.2:8444"]\nsite_name = "mine-3"\n')
    assert config.load(table) == config.load(flat)
    environment = {"IOTEDGE_WORKLOADURI": "x", "MODELSYNC_DATA": "/d", "MODELSYNC_SITE_ADDRESS": "0.0.0.0:8444"}
    made = config.from_environment({**environment, "MODELSYNC_SITE_PEERS": "10.0.0.2:8444, 10.0.0.3:8444"})
    assert made.site_peers == ("10.0.0.2:8444", "10.0.0.3:8444")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('address = "8444"', "ip:port"),
        ('address = "0.0.0.0:99999"', "ip:port"),
        ('peers = ["10.0.0.2:8444"]', "needs site_address"),
        ('address = "0.0.0.0:1"\npeers = ["10.0.0.2"]', "host:port"),
        ('address = "0.0.0.0:1"\npeers = [2]', "list of strings"),
        ('address = "0.0.0.0:1"\nrole = "king"', "gateway"),
        ('address = "0.0.0.0:1"\nca = "x.pem"', "belong together"),
        ('address = "0.0.0.0:1"\nname = "two words"', "site's name"),
        ('address = "0.0.0.0:1"\ncache_bytes = 1', "out of range"),
        ('adress = "0.0.0.0:1"', "site_adress"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, lines: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'data = "d"\n[site]\n{lines}\n')
    with pytest.raises(UsageError, match=says):
        config.load(path)


def wish(policy: object) -> twin.Desired:
    return twin.parse_desired({"modelsync": {"policy": {"site": policy}}})


def test_the_twin_names_neighbours_and_what_is_wrong_keeps_them_out() -> None:
    good = {"peers": ["10.0.0.2:8444", "pi-3.local:8444", "[fe80::1]:8444"], "name": "depot", "key": "ab" * 32}
    assert wish(good).policy.site == SitePolicy(tuple(good["peers"]), "depot", "ab" * 32)
    assert wish({"off": True}).policy.site == SitePolicy(off=True)
    assert wish(None).policy.site is None and not wish(None).problems
    for bad in ("x", {"peers": "10.0.0.2:8444"}, {"peers": ["x"]}, {"peers": ["a:1"] * 65}, {"name": "a b"},
                {"key": "ab"}, {"off": 2}, {"peers": [1]}):  # fmt: skip
        found = wish(bad)
        assert found.policy.site == SitePolicy(off=True), bad
        assert found.problems, bad
    assert "policy/site/pears" in wish({"pears": []}).problems


def members(*peers: str, policy: SitePolicy | None = None, **access: str) -> SiteAccess | None:
    local = SiteAccess("site", "0.0.0.0:8444", (), "/x", 1, **access)  # type: ignore[arg-type]
    return Membership(local, peers, lambda: policy).access()


def test_a_device_finds_itself_in_the_list() -> None:
    found = members("127.0.0.1:8444", "203.0.113.7:8444", "203.0.113.8:8444")
    assert found is not None
    assert (found.me, found.peers) == ("127.0.0.1:8444", ("203.0.113.7:8444", "203.0.113.8:8444"))


def test_the_twins_word_goes_before_the_settings() -> None:
    found = members(
        "203.0.113.7:8444", "127.0.0.1:8444", policy=SitePolicy(("203.0.113.9:8444", "127.0.0.1:8444"), "depot")
    )
    assert found is not None and (found.name, found.peers) == ("depot", ("203.0.113.9:8444",))
    assert members("203.0.113.7:8444", policy=SitePolicy(off=True)) is None


def pem(tmp_path: Path, name: str) -> dict[str, str]:
    authority = Authority(tmp_path / name)
    authority.server()
    own = str(tmp_path / name / "127.0.0.1-1.pem")
    return {"cert": own, "key": own, "ca": str(authority.path)}


def test_a_key_that_leaked_is_given_up_by_naming_another(tmp_path: Path) -> None:
    old, new = pem(tmp_path, "old"), pem(tmp_path, "new")
    named = SiteAccess("site", "127.0.0.1:1", (), "/x", 1, **new).fingerprint()  # type: ignore[arg-type]
    assert members("203.0.113.7:8444", policy=SitePolicy(key=named), **old) is None
    assert members("203.0.113.7:8444", policy=SitePolicy(key=named), **new) is not None
    assert members("203.0.113.7:8444", policy=SitePolicy(key=named)) is None


async def test_neighbours_with_the_sites_key_share_and_others_are_refused(tmp_path: Path) -> None:
    keys, foreign = pem(tmp_path, "ours"), pem(tmp_path, "foreign")
    shop = await Shop.open(tmp_path)
    data = noise(100_000)
    await shop.publish_bytes("m", data)
    async with ScriptedOrigin(shop.path) as origin, Site(tmp_path / "site", shop.trust, 3, **keys) as devices:
        await all_pull(devices[:2], "m", origin.url)
        assert sum(device.device.listener.site_received for device in devices[:2]) > 100_000
        stranger = devices[2]
        stranger.access = SiteAccess(**{**stranger.access.document(), **foreign})
        await stranger.pull("m", origin.url)
        assert stranger.device.files("m") == {"model.bin": data}
        assert stranger.device.listener.received > 100_000, "it had to use its own line"


def test_without_a_site_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, modelsync_daemon.cli, modelsync_daemon.service, modelsync_daemon.workers.zygote;"
        "print([n for n in sys.modules if 'modelsync_daemon.site' in n or 'neighbour' in n or 'spool' in n"
        " or n.endswith('.site_access') or n == 'modelsync_protocol.site'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_what_neighbours_exchange_is_counted_apart_and_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    ledger = SiteLedger(database)
    assert ledger.document() is None
    ledger.add(1000, 20)
    ledger.add(0, 0, 7)
    ledger.flush()
    ledger.flush()
    again = SiteLedger(database)
    again.add(1, 2)
    assert again.document() == {period: {"received": 1001, "sent": 22, "wasted": 7} for period in ("day", "month")}
    database.remember("site_ledger", "[]")
    assert SiteLedger(database).document() is None
    database.close()
