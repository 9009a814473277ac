package clients

import (
	"os"
	"os/exec"
	"path/filepath"
)

// client is a column of the table.
type client struct {
	name    string // in the table
	program string // in this folder, and in the names of its topics
	command func(r *rig, program string) []string
	runtime string // command that must be on the PATH, if any
	setUp   string // what .ci/setup-clients must have installed, if any
	note    string // below the table
	plain   bool   // writes no timestamps, and the same headers for all records
}

// clients are the columns. The first one writes what the others read.
var clients = []client{
	{name: "franz-go", program: "franz-go", command: goProgram},
	{name: "librdkafka: kcat", program: "kcat", command: goProgram, runtime: "kcat", plain: true,
		note: "it cannot set a timestamp, and gives all records of a run the same headers; what it seeks is where a run starts."},
	{name: "librdkafka: confluent-kafka", program: "confluent", command: pythonProgram, setUp: "python"},
	{name: "kafkajs", program: "kafkajs", command: nodeProgram, runtime: "node", setUp: "kafkajs",
		note: "it always reads in a group; its codecs are those of kafkajs-snappy, lz4js and zstd-codec."},
	{name: "Java: kafka-clients", program: "java", command: javaProgram, runtime: "java", setUp: "java"},
	{name: "Java: kafka-clients 3.7", program: "java-3.7", command: javaProgram, runtime: "java", setUp: "java-3.7"},
	{name: "sarama", program: "sarama", command: goProgram},
	{name: "kafka-go", program: "kafka-go", command: goProgram},
	{name: "kafka-python", program: "kafkapython", command: pythonProgram, setUp: "python"},
}

func goProgram(r *rig, program string) []string { return []string{filepath.Join(r.bin, program)} }

func pythonProgram(r *rig, program string) []string {
	return []string{r.tools("python/bin/python"), "-B", r.source("python/" + program + ".py")}
}

func nodeProgram(r *rig, program string) []string {
	return []string{"node", r.source(program + "/main.js")}
}

func javaProgram(r *rig, program string) []string {
	return []string{"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", r.tools(program+"/classes") + ":" + r.tools(program+"/libs/*"), "Main"}
}

// tools is a path in the folder that .ci/setup-clients fills.
func (r *rig) tools(path string) string { return filepath.Join(r.root, ".tools", "clients", path) }

func (r *rig) source(path string) string { return filepath.Join(r.root, "test", "clients", path) }

// missing says what the client needs and has not, or "".
func (r *rig) missing(c client) string {
	if c.runtime != "" {
		if _, err := exec.LookPath(c.runtime); err != nil {
			return c.runtime
		}
	}
	if c.setUp != "" {
		if _, err := os.Stat(r.tools(c.setUp + "/ready")); err != nil {
			return "what .ci/setup-clients installs for " + c.setUp
		}
	}
	return ""
}
