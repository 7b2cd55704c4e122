#!/usr/bin/env bash
# Finds ports for servers that are started later.
#
#   free-ports.sh COUNT [ABOVE]   print COUNT free TCP ports on one line; with ABOVE, the port that much higher is free too
#
# No process holds a port until its server starts, or while the server is stopped. The ports are therefore given out in
# turn: no port is printed again to a process of this user before about 10000 others. They are below the ports that
# Linux uses for outgoing connections, because a client that connects to a stopped server could otherwise be given that
# server's port as its own.
set -euo pipefail

[[ $# -ge 1 ]] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }

exec perl -MSocket -MFcntl=:flock,:seek -e '
    my ($state, $connections, $count, $above) = @ARGV;
    my $room = 10000;
    # If connections use low ports as well, no range is free of them. A port above is in neither range.
    my $from = $connections >= 3 * $room ? $room : 3 * $room;
    my $to = $from + $room;

    open(my $file, "+>>", $state) or die "$state: $!\n";
    flock($file, LOCK_EX) or die "$state: $!\n";
    seek($file, 0, SEEK_SET);
    my $port = <$file> // 0;

    sub is_free {
        socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
        # Servers set this option too, so that connections of a previous server do not prevent their start.
        setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1) or die "setsockopt: $!\n";
        return bind($socket, sockaddr_in($_[0], INADDR_ANY)) && listen($socket, 1);
    }

    my @found;
    for (1 .. $to - $from) {
        $port = $port + 1 >= $from && $port + 1 < $to ? $port + 1 : $from;
        next unless is_free($port) and (not $above or is_free($port + $above));
        push @found, $port;
        last if @found == $count;
    }
    die "no free TCP ports in $from..$to\n" if @found < $count;

    truncate($file, 0) or die "$state: $!\n";
    print $file $port;
    print "@found\n";
' "/tmp/magnetite-ports-$EUID" \
    "$(cut -f 1 /proc/sys/net/ipv4/ip_local_port_range 2>/dev/null || echo 32768)" "$1" "${2:-0}"
