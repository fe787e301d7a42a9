"""The command line reads as Go's flag package reads it, and says what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.config import DEFAULT_UDP_MAX_FLOWS, Settings
from pyproxy.errors import FlagError
from pyproxy.flags import OPTIONS, SECONDS, NoPortError, parse

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


def wanted(arguments: list[str]) -> str:
    with pytest.raises(NoPortError) as caught:
        parse(arguments)
    return caught.value.wanted


@pytest.mark.parametrize("flag", ["-h", "-help", "--help", "-help=true"])
def test_help_is_asked_for_in_each_of_gos_ways(flag: str) -> None:
    assert wanted([flag]) == "help"


@pytest.mark.parametrize("flag", ["-v", "--v", "-version", "--version=1"])
def test_version_is_asked_for_in_each_of_gos_ways(flag: str) -> None:
    assert wanted([flag]) == "version"


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
        (["-host-port", "1.5.2"], "invalid value '1.5.2' for flag -host-port: give a decimal number"),
        (["-idle-timeout", "5.x"], "invalid value '5.x' for flag -idle-timeout: give seconds, such as 30 or 0.5, or a"),
        (["-idle-timeout", "5 m"], "invalid value '5 m' for flag -idle-timeout: give seconds"),
        (["-idle-timeout", "1h30"], "invalid value '1h30' for flag -idle-timeout: give seconds"),
        (["-idle-timeout", "m"], "invalid value 'm' for flag -idle-timeout: give seconds"),
        (["-idle-timeout", "."], "invalid value '.' for flag -idle-timeout: give seconds"),
        (["-idle-timeout", "1e3"], "invalid value '1e3' for flag -idle-timeout: give seconds"),
        (["-idle-timeout", "1000000000"], "invalid value '1000000000' for flag -idle-timeout: give seconds"),
        (["-idle-timeout", "\u0661"], "invalid value"),
        (["-idle-timeout="], "invalid value '' for flag -idle-timeout"),
        (["-hostport", "80"], "flag provided but not defined: -hostport: did you mean -host-port?"),
        (["--host_port=80"], "flag provided but not defined: -host_port: did you mean -host-port?"),
        (["-Container-IP", "::1"], "flag provided but not defined: -Container-IP: did you mean -container-ip?"),
        (["version"], "unexpected argument 'version': did you mean -version?"),
        (["-proto", "tcp", "host-port", "80"], "unexpected argument 'host-port': did you mean -host-port?"),
        (["-host-port", "80", "drian"], "unexpected argument 'drian': every argument is a flag or its value"),
        (["80:8080"], "unexpected argument '80:8080': every argument is a flag or its value, or first a subcommand"),
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
        ([*SHORT, "-host-ip", "fe80::1%\x1b[2J"], "-host-ip 'fe80::1%\\x1b[2J' is not an IP address"),
        ([*SHORT, "-proto", "icmp"], "-proto 'icmp' is not known: give tcp, udp or sctp"),
        ([*SHORT, "-proto", "TCP"], "-proto 'TCP' is not known"),
        ([*SHORT, "-loop", "trio"], "-loop 'trio' is not known: give auto, uvloop or asyncio"),
        ([*SHORT, "-udp-max-flows", "0"], "-udp-max-flows 0 is out of range"),
        ([*SHORT, "-idle-timeout", "-1"], "-idle-timeout -1 is negative: give seconds, or 0 for no limit"),
        ([*SHORT, "-idle-timeout", "-5m"], "-idle-timeout -5m is negative"),
        ([*SHORT, "-host-port", "-1"], "-host-port -1 is out of range: give a number from 0 to 65535"),
        ([*SHORT, "-container-port=-1"], "-container-port -1 is out of range: give a number from 1 to 65535"),
        ([*SHORT, "-busy-poll", "-5"], "-busy-poll -5 is out of range: give a number from 0 to 1000"),
        ([*SHORT, "-busy-poll", "100000000"], "-busy-poll 100000000 is out of range"),
    ],
)
def test_a_value_that_no_port_can_be_served_with_is_named_with_its_mend(arguments: list[str], complaint: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(arguments)
    assert complaint in str(caught.value)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", [f"-{name}" for name, option in OPTIONS.items() if option.kind == SECONDS])
@pytest.mark.parametrize("short", ["0.00001", "0.099", "1us", "99ms"])
def test_a_limit_that_would_take_a_processor_to_look_after_is_refused(flag: str, short: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse([*SHORT, flag, short])
    assert str(caught.value) == f"{flag} {short} is too short: give 0.1 s or more, or 0 for no limit"


@pytest.mark.parametrize(
    ("text", "length_s"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10.0),
        ("300ms", 0.3),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2m0.5s", 120.5),
        ("500000\u00b5s", 0.5),
        ("1000000us", 1.0),
        ("1s1000000000ns", 2.0),
        ("+5m", 300.0),
        ("-0", 0.0),
        ("0s", 0.0),
    ],
)
def test_a_limit_is_seconds_or_a_duration_as_go_writes_it(text: str, length_s: float) -> None:
    assert parse([*SHORT, "-idle-timeout", text]).limits.idle_s == pytest.approx(length_s)


def test_what_does_not_print_is_spelled_out_in_a_complaint() -> None:
    for argument in ("-a\nb", "-\x1b[2J", "---\r", "\x1b[2J", "-\udcff", "-\u202e"):
        with pytest.raises(FlagError) as caught:
            parse([argument])
        assert str(caught.value).isprintable()


def test_limits_are_seconds_and_off_by_default() -> None:
    limits = parse([*SHORT, "-connect-timeout", "2.5", "-idle-timeout=600"]).limits
    assert (limits.connect_s, limits.idle_s, limits.half_closed_s) == (2.5, 600.0, 0.0)
    assert parse(SHORT).udp_max_flows == DEFAULT_UDP_MAX_FLOWS


@given(st.lists(st.text(max_size=12) | st.sampled_from([*DOCKERD, "-use-listen-fd", "-v", "--host-port=1"])))
def test_any_command_line_is_either_understood_or_refused_in_one_line(arguments: list[str]) -> None:
    try:
        understood = str(parse(arguments))
    except FlagError as exc:
        understood = str(exc)
    assert understood.isprintable()


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
