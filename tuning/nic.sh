#!/usr/bin/env bash
# Spreads the work of receiving from a network card over the CPUs.
#
#   tuning/nic.sh check [CARD...]      prints the current settings; exit code 1 if one should change
#   tuning/nic.sh apply [CARD...]      changes them until the next reboot (needs root)
#
# Without names it handles every hardware card. Each shard runs on a CPU of its own, and its connections are spread over
# all queues of the card, so the receive work must be spread over all CPUs, too, or one of them becomes the bottleneck.
# If a card has as many queues as there are CPUs, each queue's interrupt should go to one CPU. If it has fewer, the
# kernel can pass packets to other CPUs by connection (RPS).
set -euo pipefail
shopt -s nullglob

cpus=$(nproc --all)

# The mask of all CPUs in groups of 32 bits, the format of rps_cpus.
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
    local card found must_change=0
    for card in "$@"; do
        found=$(queues "$card")
        if ((found >= cpus)); then
            echo "ok     $card: $found queues for $cpus CPUs"
        elif is_steered "$card"; then
            echo "ok     $card: $found queues for $cpus CPUs, with RPS"
        else
            echo "CHANGE $card: $found queues for $cpus CPUs; do: $0 apply $card"
            must_change=1
        fi
    done
    return $must_change
}

apply() {
    local card most interrupt cpu mask
    for card in "$@"; do
        # As many queues as the card supports, at most one per CPU. On virtual cards with one, ethtool fails.
        most=$(ethtool -l "$card" 2>/dev/null | awk '/^Combined:/ { print $2; exit }' || true)
        if [[ $most =~ ^[0-9]+$ ]]; then
            ethtool -L "$card" combined "$((most < cpus ? most : cpus))" 2>/dev/null || true
        fi
        if (($(queues "$card") >= cpus)); then
            cpu=0
            for interrupt in $(interrupts "$card"); do
                # Some interrupts belong to no queue and can't be moved.
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
