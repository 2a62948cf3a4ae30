# shellcheck shell=bash
# Background Java processes and their pid files; sourced by `kafka` and `registry`, which set `service` first.
#
# A process is known by the folder it serves: its command line carries `-Dwatershed.NAME.data=FOLDER`.
# A pid file alone proves nothing, because after a crash its number may belong to another program.

cache_home=${WATERSHED_KAFKA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/watershed/kafka}
default_data=$cache_home/${service:?}-data

say() { printf '%s: %s\n' "$service" "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# need_program PROGRAM DEBIAN_PACKAGE
need_program() {
  command -v "$1" >/dev/null || fail "the program \`$1\` is missing; install it, for example with: sudo apt-get install -y $2"
}

# Without `ps` every broker would look dead.
need_program ps procps

# The version is looked at once, at setup: it costs the start of a JVM.
need_java() {
  need_program java openjdk-17-jre-headless
  local major
  major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${major:-0}" -ge 17 ] || fail "Java ${major:-of an unknown version} is too old; install Java 17 or newer, for example with: sudo apt-get install -y openjdk-17-jre-headless"
}

# Holds the lock until this script ends. Without `flock` (macOS) two starts at the same instant may collide.
# A started process must not inherit descriptor 9, or it would hold the lock as long as it lives.
lock() {
  exec 9>"$1"
  if command -v flock >/dev/null; then flock 9; fi
}

marker() { printf -- '-Dwatershed.%s.data=%s' "$service" "$1"; }

# Prints the pid of the process that serves the folder; fails when there is none.
running_pid() {
  local data=$1 pid
  [ -s "$data/pid" ] || return 1
  read -r pid <"$data/pid" || return 1
  [[ " $(ps -ww -o args= -p "$pid" 2>/dev/null) " == *" $(marker "$data") "* ]] || return 1
  echo "$pid"
}

# Sets `data` and leaves what follows it in `rest`.
take_data() {
  data=$default_data
  rest=("$@")
  if [ "${1:-}" = --data ]; then
    [ -n "${2:-}" ] || fail "--data needs a folder"
    data=$2
    rest=("${@:3}")
  fi
  if [ -d "$data" ]; then data=$(absolute_folder "$data"); fi
}

parse_data() {
  take_data "$@"
  [ ${#rest[@]} -eq 0 ] || fail "unknown argument \`${rest[0]}\`; see: $service --help"
}

# end SIGNAL SECONDS [--data DIR]
end() {
  local signal=$1 seconds=$2
  shift 2
  parse_data "$@"
  end_process "$data" "$signal" "$seconds"
}

# end_process DATA SIGNAL SECONDS
end_process() {
  local data=$1 signal=$2 seconds=$3 pid
  if ! pid=$(running_pid "$data"); then
    say "not running on $data"
    return 0
  fi
  # It may end by itself between the look and the signal.
  kill "-$signal" "$pid" 2>/dev/null || true
  local deadline=$((SECONDS + seconds))
  while running_pid "$data" >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || fail "pid $pid on $data still runs $seconds s after SIG$signal; see $data/$service.log, or end it with: $0 kill --data $data"
    sleep 0.05
  done
  rm -f "$data/pid"
}

# wait_until_ready DATA PID SECONDS PROBE...
wait_until_ready() {
  local data=$1 pid=$2 seconds=$3
  shift 3
  local deadline=$((SECONDS + seconds)) log=$data/$service.log
  until "$@"; do
    if ! kill -0 "$pid" 2>/dev/null; then
      tail -n 30 "$log" >&2
      rm -f "$data/pid"
      fail "the process ended before it was ready; above is the end of $log"
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 30 "$log" >&2
      fail "not ready after $seconds s, it still runs with pid $pid; above is the end of $log; wait longer with --timeout"
    fi
    sleep 0.05
  done
}

# The file `ports` of a folder has a line NAME=PORT for each listener.
saved_port() { if [ -f "$data/ports" ]; then sed -n "s/^$1=//p" "$data/ports"; fi; }

absolute_folder() { mkdir -p "$1" && CDPATH="" cd "$1" && pwd -P; }

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the ports that the kernel hands out by itself (from 32768 on Linux), in steps that leave room for neighbours.
random_free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 1250 * 10))
    if port_is_free "$port"; then
      echo "$port"
      return
    fi
  done
}
