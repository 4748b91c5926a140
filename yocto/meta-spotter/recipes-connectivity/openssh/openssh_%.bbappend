# One service that waits for its key and for set-up, not one for each connection.

PACKAGECONFIG:append:spotteros = " systemd-sshd-service-mode"
PACKAGECONFIG:remove:spotteros = "systemd-sshd-socket-mode"
