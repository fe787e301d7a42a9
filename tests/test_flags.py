"""The command line reads as Go's flag package reads it, and says what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.errors import FlagError, StartError
from pyproxy.flags import DEFAULT_UDP_MAX_FLOWS, Settings, parse

DOCKERD = [
    "-proto",
    "tcp",
    "-host-ip",
    "0.0.0.0",
    "-host-port",
    "1234",
    "-container-ip",
    "172.19.0.2",
    "-container-port",
    "1234",
]
SHORT = ["-host-port", "80", "-container-ip", "10.0.0.2", "-container-port", "8080"]


def described(settings: Settings) -> str:
    return f"{settings.port} fd={settings.use_listen_fd}"


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        (DOCKERD, "tcp 0.0.0.0:1234 -> 172.19.0.2:1234 fd=False"),
        ([*DOCKERD, "-use-listen-fd"], "tcp 0.0.0.0:1234 -> 172.19.0.2:1234 fd=True"),
        ([*DOCKERD, "-use-listen-fd=true"], "tcp 0.0.0.0:1234 -> 172.19.0.2:1234 fd=True"),
        ([*DOCKERD, "-use-listen-fd=F"], "tcp 0.0.0.0:1234 -> 172.19.0.2:1234 fd=False"),
        (SHORT, "tcp 0.0.0.0:80 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "-proto=udp"], "udp 0.0.0.0:80 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "--proto", "sctp"], "sctp 0.0.0.0:80 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "--host-ip=::"], "tcp [::]:80 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "-host-port", "81"], "tcp 0.0.0.0:81 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "-host-port=0"], "tcp 0.0.0.0:0 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "-host-ip", "0:0::0001"], "tcp [::1]:80 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "-host-ip", "::ffff:10.1.2.3"], "tcp 10.1.2.3:80 -> 10.0.0.2:8080 fd=False"),
        ([*SHORT, "-container-ip", "fe80::2%docker0"], "tcp 0.0.0.0:80 -> [fe80::2%docker0]:8080 fd=False"),
        (["-host-port=80", "-container-port=8080"], "tcp 0.0.0.0:80 -> 0.0.0.0:8080 fd=False"),
        (["-use-listen-fd", "-container-port=8080"], "tcp 0.0.0.0:0 -> 0.0.0.0:8080 fd=True"),
    ],
)
def test_arguments_mean_what_they_mean_to_docker_proxy(arguments: list[str], meaning: str) -> None:
    assert described(parse(arguments)) == meaning


@pytest.mark.parametrize("flag", ["-h", "-help", "--help", "-help=true"])
def test_help_is_asked_for_in_each_of_gos_ways(flag: str) -> None:
    assert parse([flag]).wants == "help"


@pytest.mark.parametrize("flag", ["-v", "--v", "-version", "--version=1"])
def test_version_is_asked_for_in_each_of_gos_ways(flag: str) -> None:
    assert parse([flag]).wants == "version"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-port", "80"], "flag provided but not defined: -port"),
        (["---host-port", "80"], "bad flag syntax: ---host-port"),
        (["-=80"], "bad flag syntax: -=80"),
        (["-host-port"], "flag needs an argument: -host-port"),
        (["-host-port", "http"], "invalid value 'http' for flag -host-port"),
        (["-host-port="], "invalid value '' for flag -host-port"),
        (["-host-port", "0x50"], "invalid value '0x50' for flag -host-port"),
        (["-host-port", "010"], "invalid value '010' for flag -host-port"),
        (["-host-port", "8.5"], "invalid value '8.5' for flag -host-port: give a whole number"),
        (["-host-port", "\u0661\u0662"], "invalid value"),
        (["-host-port", "9" * 5000], "invalid value"),
        (["-use-listen-fd=yes"], "invalid boolean value 'yes' for -use-listen-fd"),
        (["-idle-timeout", "5m"], "invalid value '5m' for flag -idle-timeout"),
        (["-idle-timeout", "5.x"], "invalid value '5.x' for flag -idle-timeout: give seconds"),
        (["80:8080"], "unexpected argument '80:8080'"),
        (["-"], "unexpected argument '-'"),
        ([""], "unexpected argument ''"),
        (["-use-listen-fd", "true"], "unexpected argument 'true'"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_refused_as_go_refuses_it(arguments: list[str], complaint: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(arguments)
    assert complaint in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "-host-port is missing"),
        (["-host-port", "80"], "-container-port is missing"),
        ([*SHORT, "-host-port", "65536"], "-host-port 65536 is out of range: give a number from 0 to 65535"),
        ([*SHORT, "-host-port", "-2"], "-host-port -2 is out of range"),
        ([*SHORT, "-container-port", "0"], "-container-port 0 is out of range: give a number from 1 to 65535"),
        ([*SHORT, "-host-ip", "localhost"], "-host-ip 'localhost' is not an IP address"),
        ([*SHORT, "-host-ip", "127.1"], "-host-ip '127.1' is not an IP address"),
        ([*SHORT, "-host-ip", ""], "-host-ip '' is not an IP address"),
        ([*SHORT, "-host-ip", "1.2.3.4\0"], "is not an IP address"),
        ([*SHORT, "-host-ip", "1.2.3.4%eth0"], "is not an IP address"),
        ([*SHORT, "-container-ip", "[::1]"], "-container-ip '[::1]' is not an IP address"),
        ([*SHORT, "-proto", "icmp"], "-proto 'icmp' is not known: give tcp, udp or sctp"),
        ([*SHORT, "-proto", "TCP"], "-proto 'TCP' is not known"),
        ([*SHORT, "-loop", "trio"], "-loop 'trio' is not known: give auto, uvloop or asyncio"),
        ([*SHORT, "-udp-max-flows", "0"], "-udp-max-flows 0 is out of range"),
        ([*SHORT, "-idle-timeout", "-1"], "-idle-timeout -1 is negative"),
    ],
)
def test_a_value_that_no_port_can_be_served_with_is_named_with_its_mend(arguments: list[str], complaint: str) -> None:
    with pytest.raises(StartError) as caught:
        parse(arguments)
    assert complaint in str(caught.value)
    assert caught.value.exit_status == 1
    assert "\n" not in str(caught.value)


def test_limits_are_seconds_and_off_by_default() -> None:
    limits = parse([*SHORT, "-connect-timeout", "2.5", "-idle-timeout=600"]).limits
    assert (limits.connect_s, limits.idle_s, limits.half_closed_s) == (2.5, 600.0, 0.0)
    assert parse(SHORT).udp_max_flows == DEFAULT_UDP_MAX_FLOWS


@given(st.lists(st.text(max_size=12) | st.sampled_from([*DOCKERD, "-use-listen-fd", "-v", "--host-port=1"])))
def test_any_command_line_is_either_understood_or_refused_in_one_line(arguments: list[str]) -> None:
    try:
        understood = parse(arguments).wants
    except StartError as exc:
        understood = str(exc)
    assert understood
    assert "\n" not in understood.replace("\\n", "")


@given(st.ip_addresses(), st.integers(0, 65_535), st.ip_addresses(v=4), st.integers(1, 65_535))
def test_every_address_and_port_is_accepted(host: object, port: int, container: object, container_port: int) -> None:
    settings = parse(
        [
            "-host-ip",
            str(host),
            f"-host-port={port}",
            f"--container-ip={container}",
            f"-container-port={container_port}",
        ]
    )
    assert (settings.port.host_port, settings.port.container_port) == (port, container_port)
    assert settings.port.container_ip == str(container)
