#!/usr/bin/env bash
# Spreads the work of receiving from a network card over the CPUs.
#
#   tuning/nic.sh check [CARD...]      says what is, and ends with 1 if something should change
#   tuning/nic.sh apply [CARD...]      changes it, until the next start of the host (needs root)
#
# Without names it takes every card that is a device. Each shard runs on a CPU of its own, and its connections are spread
# over all of the card's queues: the work of receiving should be spread over all CPUs, too, or one of them is the limit.
# Where a card has as many queues as there are CPUs, each queue's interrupt belongs on one CPU. Where it has fewer, the
# kernel can hand packets on to other CPUs by their connection (RPS).
set -euo pipefail
shopt -s nullglob

cpus=$(nproc --all)

# All CPUs as a mask of 32-bit groups, as rps_cpus wants it.
mask_of_all() {
    local left=$cpus groups=()
    while ((left > 32)); do
        groups=(ffffffff "${groups[@]}")
        left=$((left - 32))
    done
    groups=("$(printf '%x' $(((1 << left) - 1)))" "${groups[@]}")
    (IFS=, && echo "${groups[*]}")
}

cards() {
    local device
    for device in /sys/class/net/*/device; do
        basename "$(dirname "$device")"
    done
}

queues() {
    local all=("/sys/class/net/$1/queues"/rx-*)
    echo ${#all[@]}
}

# The interrupts of a card's queues, in order.
interrupts() {
    local all=("/sys/class/net/$1/device/msi_irqs"/*)
    printf '%s\n' "${all[@]##*/}" | sort -n
}

is_steered() {
    local mask
    for mask in "/sys/class/net/$1/queues"/rx-*/rps_cpus; do
        [[ $(tr -d '0,' <"$mask") ]] || return 1
    done
}

check() {
    local card found is_poor=0
    for card in "$@"; do
        found=$(queues "$card")
        if ((found >= cpus)); then
            echo "ok     $card: $found queues for $cpus CPUs"
        elif is_steered "$card"; then
            echo "ok     $card: $found queues for $cpus CPUs, and packets are handed on"
        else
            echo "CHANGE $card: $found queues for $cpus CPUs; do: $0 apply $card"
            is_poor=1
        fi
    done
    return $is_poor
}

apply() {
    local card most interrupt cpu mask
    for card in "$@"; do
        # As many queues as the card has and the CPUs need. Many virtual cards have one, and say so with an error.
        most=$(ethtool -l "$card" 2>/dev/null | awk '/^Combined:/ { print $2; exit }' || true)
        if [[ $most =~ ^[0-9]+$ ]]; then
            ethtool -L "$card" combined "$((most < cpus ? most : cpus))" 2>/dev/null || true
        fi
        if (($(queues "$card") >= cpus)); then
            cpu=0
            for interrupt in $(interrupts "$card"); do
                # Some belong to no queue and can't be moved.
                echo $((cpu % cpus)) >"/proc/irq/$interrupt/smp_affinity_list" 2>/dev/null || continue
                cpu=$((cpu + 1))
            done
        else
            for mask in "/sys/class/net/$card/queues"/rx-*/rps_cpus; do
                mask_of_all >"$mask"
            done
        fi
    done
    check "$@"
}

action=${1-}
shift || true
if (($# == 0)); then
    readarray -t names < <(cards)
else
    names=("$@")
fi
case $action in
check | apply) "$action" "${names[@]}" ;;
*)
    echo "usage: $0 check|apply [CARD...]" >&2
    exit 2
    ;;
esac
