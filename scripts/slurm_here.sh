#!/usr/bin/env bash
# Run a command on a Slurm of one node that exists only meanwhile, on this machine: Debian's slurmctld,
# slurmd and munge, without systemd, without accounting, listening on 127.0.0.1 alone.
#
# Usage: scripts/slurm_here.sh FOLDER COMMAND ...
# FOLDER holds its configuration, state and logs, and stays. docs/howto/cluster.md shows it at work.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 FOLDER COMMAND ..." >&2; exit 2; }
mkdir -p "$1"
here=$(realpath "$1")
shift
for program in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v $program >/dev/null ||
        { echo "$0: there is no $program: apt install munge slurmctld slurmd slurm-client" >&2; exit 2; }
done
export PATH=$PATH:/usr/sbin SLURM_CONF=$here/slurm.conf
mkdir -p "$here"/{munge,state,spool}
chmod 755 "$here/munge"
cpus=$(env -u OMP_NUM_THREADS nproc)
cat > "$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=26817
SlurmdPort=26818
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$here/munge/socket
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
head -c 1024 /dev/urandom > "$here/munge/key"
chmod 600 "$here/munge/key"

stop() {
    set +e
    scancel --quiet --full --user "$(id -un)"
    for file in slurmd.pid slurmctld.pid munge/pid; do
        [ -f "$here/$file" ] && kill "$(cat "$here/$file")"
    done
}
trap stop EXIT
munged --key-file "$here/munge/key" --socket "$here/munge/socket" --pid-file "$here/munge/pid" \
    --log-file "$here/munge/log" --seed-file "$here/munge/seed" --num-threads 2
slurmctld
slurmd
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format %T 2>/dev/null)" = idle ] && break
    sleep 0.5
done
"$@"
