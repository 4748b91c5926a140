# A virtual machine that runs an image, and how to talk to it; sourced by test-image.sh, which sets WORK and DISK.
# All its ports are on loopback.
# shellcheck shell=bash disable=SC2034,SC2154

declare -A PORT=()
VM_PID='' SERIAL=''

free_ports() {
    python3 -c 'import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))' "$1"
}

# start_vm [QEMU ARGUMENT...]: switches the board on. Its console goes to $SERIAL, one file for each time it is switched on.
start_vm() {
    local forward='' name
    if [[ ${#PORT[@]} == 0 ]]; then
        read -r "PORT[22]" "PORT[1935]" "PORT[1883]" "PORT[8765]" "PORT[8080]" < <(free_ports 5)
        [[ -e $WORK/variables.fd ]] || cp /usr/share/AAVMF/AAVMF_VARS.fd "$WORK/variables.fd"
    fi
    for name in "${!PORT[@]}"; do forward+=",hostfwd=tcp:127.0.0.1:${PORT[$name]}-:$name"; done
    SERIAL=$(mktemp "$WORK/serial.XXXXXX")
    qemu-system-aarch64 -machine virt,gic-version=3,acpi=off -cpu cortex-a72 -accel tcg,thread=multi -smp 2 -m 2048 -nodefaults -display none \
        -drive if=pflash,format=raw,readonly=on,file=/usr/share/AAVMF/AAVMF_CODE.fd \
        -drive if=pflash,format=raw,file="$WORK/variables.fd" \
        -drive if=none,id=card,format=raw,file="$DISK" -device virtio-blk-pci,drive=card,bootindex=0 \
        -netdev user,id=net$forward -device virtio-net-pci,netdev=net,romfile= \
        -device virtio-rng-pci -serial "file:$SERIAL" "$@" &
    VM_PID=$!
}

# cut_power: as if the plug were pulled.
cut_power() {
    [[ -n $VM_PID ]] || return 0
    kill -KILL "$VM_PID" 2>/dev/null || true
    wait "$VM_PID" 2>/dev/null || true
    VM_PID=''
}

alive() { [[ -n $VM_PID ]] && kill -0 "$VM_PID" 2>/dev/null; }

# on_box COMMAND: runs it on the box, as root.
on_box() {
    ssh -q -p "${PORT[22]}" -i "$WORK/id" -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 \
        -o UserKnownHostsFile="$WORK/known_hosts" -o StrictHostKeyChecking=accept-new root@127.0.0.1 "$@"
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds; WHAT is for the message when it does not in time.
wait_for() {
    local seconds=$1 what=$2 begin=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        alive || fail "$what: the virtual machine ended"
        ((SECONDS - begin < seconds)) || fail "$what: not within $seconds s"
        sleep 2
    done
    say "$what after $((SECONDS - begin)) s"
}

# is_good SLOT: this slot runs, and was found good in this very start.
is_good() { [[ $(on_box 'sed -n "s/.*rauc.slot=\([AB]\).*/\1/p" /proc/cmdline; systemctl is-active spotter-ready.service' | paste -sd' ') == "$1 active" ]]; }
