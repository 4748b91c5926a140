# Where it is kept that a slot is on trial; sourced by the scripts beside it.
#
# shellcheck shell=sh disable=SC2034,SC2154
# The file holds "SLOT STATE VERSION". STATE is "installing" until all is written, then "installed"; "restarting" once the
# restart into it has begun.
TRIAL=/var/lib/spotter-image/trial
LAST_UPDATE=/var/lib/spotter-image/last-update

booted() { sed -n 's/.*\brauc\.slot=\([AB]\).*/\1/p' /proc/cmdline; }

trial_slot='' trial_state='' trial_version=''
read_trial() {
    trial_slot='' trial_state='' trial_version=''
    [ ! -e $TRIAL ] || read -r trial_slot trial_state trial_version <$TRIAL
}

# write_trial SLOT STATE VERSION: on the disk when it returns.
write_trial() {
    mkdir -p "${TRIAL%/*}"
    echo "$1 $2 $3" >$TRIAL.new
    sync $TRIAL.new
    mv $TRIAL.new $TRIAL
    sync "${TRIAL%/*}"
}

# end_trial RESULT: good, fell-back or interrupted.
end_trial() {
    echo "$1 $trial_version $trial_slot $(date +%s)" >$LAST_UPDATE.new
    mv $LAST_UPDATE.new $LAST_UPDATE
    rm -f $TRIAL
    sync "${TRIAL%/*}"
}
