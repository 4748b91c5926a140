# One service that waits for its key and for set-up, not one for each connection.

PACKAGECONFIG:append:spotter = " systemd-sshd-service-mode"
PACKAGECONFIG:remove:spotter = "systemd-sshd-socket-mode"
