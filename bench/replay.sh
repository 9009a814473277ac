#!/usr/bin/env bash
# Measures clients/replay: on files and on versitygw with DynamoDB Local, against plain parallel reads of the
# same objects, and against a franz-go consumer that reads the same records hot from Apache Kafka.
#
#   bench/replay.sh [flags of bench/replay]
#
# Compare the ratios: absolute figures depend on the machine and on what else runs on it.
set -euo pipefail
cd "$(dirname "$0")/.."
.ci/setup-aws
lab=$PWD/.tools/aws dir=$(mktemp -d)
export KAFKA_PEER_HOME=$PWD/.tools/kafka-peer KAFKA_PEER_DATA=$dir/kafka
peer=bench/kafka-peer.sh pids=()
end() {
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait
  $peer stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap end EXIT
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
await() { for _ in $(seq 300); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep .1; done; echo "nothing listens on port $1" >&2; return 1; }

go build -o "$dir/replay" ./bench/replay
$peer install >"$dir/install.log" 2>&1 || { tail -5 "$dir/install.log" >&2; exit 1; }
$peer start >/dev/null
printf 'load average %s\n\nOn files:\n' "$(cut -d' ' -f1 /proc/loadavg)"
code=0
"$dir/replay" --kafka 127.0.0.1:19092 --want 0.8 --want-kafka 1 "$@" || code=1

s3=$(port) dynamodb=$(port)
mkdir "$dir/objects" "$dir/metadata"
ROOT_ACCESS_KEY=test ROOT_SECRET_KEY=test "$lab/bin/versitygw" --port "127.0.0.1:$s3" --keep-alive --quiet posix --sidecar "$dir/metadata" "$dir/objects" >"$dir/s3.log" 2>&1 &
pids+=($!)
DDB_LOCAL_TELEMETRY=0 java -Xmx512m -Djava.library.path="$lab/ddb/lib" -cp "$lab/ddb/classes:$lab/ddb/lib/*" \
  LoopbackRunner -port "$dynamodb" -inMemory -sharedDb -disableTelemetry >"$dir/dynamodb.log" 2>&1 &
pids+=($!)
await "$s3"; await "$dynamodb"
export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$s3 AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:$dynamodb
export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true
printf '\nOn versitygw and DynamoDB Local:\n'
"$dir/replay" --bucket bench-replay --table bench-replay --kafka 127.0.0.1:19092 --want 0.8 --want-kafka 1 "$@" || code=1
exit $code
