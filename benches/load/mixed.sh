#!/bin/sh
# Drives a running gateway with four clients, one of each tier, and prints what
# each was admitted against what its tier allows: burst + rate x time.
#
#   benches/load/mixed.sh                 the demo's addresses, 10 s
#   URL=http://10.0.0.5:8080/api/users ADMIN=http://10.0.0.5:9901 benches/load/mixed.sh
#
# URL, ADMIN    where requests and the admin API are
# SECONDS_LONG  how long (10)
# CONNECTIONS   kept connections, over all clients (64)
# TIERS         names of the tiers ("free basic premium enterprise")
# COST          tokens of one request to URL (1)
# TOLLGATE_ADMIN_TOKEN  sent to the admin API when set
#
# Exit code 1: a tier was exceeded, or answers came that were neither admitted
# nor 429. Other limits of the gateway (route, per ip) apply as well; where one
# refuses first, a tier uses less than it allows, and the last column says who.
set -eu

url=${URL:-http://127.0.0.1:8080/api/users}
admin=${ADMIN:-http://127.0.0.1:9901}
seconds=${SECONDS_LONG:-10}
connections=${CONNECTIONS:-64}
LOAD_TIERS=${TIERS:-free basic premium enterprise}
LOAD_COST=${COST:-1}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

for tool in wrk curl; do
    command -v "$tool" >/dev/null || { echo "mixed: $tool is not installed" >&2; exit 1; }
done

# The token goes in by standard input: arguments can be read by every user.
call() {
    if [ -n "${TOLLGATE_ADMIN_TOKEN:-}" ]; then
        printf 'header = "Authorization: Bearer %s"\n' "$TOLLGATE_ADMIN_TOKEN"
    fi | curl --silent --show-error --fail-with-body --max-time 5 --config - "$@"
}

# New names on each run, so that every bucket is full when it begins.
LOAD_CLIENT_PREFIX="load-$$-"
threads=0
for tier in $LOAD_TIERS; do
    case $tier in
        *[!A-Za-z0-9_]*) echo "mixed: tier $tier has a name this script cannot pass on" >&2; exit 1 ;;
    esac
    client=$admin/clients/$LOAD_CLIENT_PREFIX$tier
    if ! call -X PUT -H 'Content-Type: application/json' -d "{\"tier\":\"$tier\"}" \
        "$client/tier" >/dev/null; then
        echo "mixed: cannot put a client into tier $tier at $admin; is the gateway running?" >&2
        exit 1
    fi
    answer=$(call "$client")
    case $answer in
        *'"capacity"'*'"refill_rate"'* | *'"refill_rate"'*'"capacity"'*) ;;
        *) echo "mixed: no limit for tier $tier in $answer" >&2; exit 1 ;;
    esac
    export "LOAD_LIMIT_$tier=$answer"
    threads=$((threads + 1))
done

# wrk gives each thread an equal share of the connections, at least one.
[ "$connections" -ge "$threads" ] || connections=$threads
LOAD_START=$(date +%s.%N)
export LOAD_TIERS LOAD_COST LOAD_CLIENT_PREFIX LOAD_START
echo "$threads clients, $connections connections, $seconds s at $url"
output=$(wrk -t"$threads" -c"$connections" -d"${seconds}s" -s "$here/tiers.lua" "$url" 2>&1) || {
    printf '%s\n' "$output" >&2
    exit 1
}
# wrk's own statistics mix all tiers and say nothing here.
printf '%s\n' "$output" | sed -n '/^tier  /,$p'
case $output in
    *'verdict: within every tier'*) ;;
    *'verdict:'*) exit 1 ;;
    *) printf '%s\n' "$output" >&2; exit 1 ;;
esac
