package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/internal/kafka/config"
)

// flagFor names the flag that stands for a setting that Kafka's brokers have.
var flagFor = map[string]string{
	"listeners": "listen", "advertised.listeners": "advertise", "log.dir": "data", "log.dirs": "data",
}

// fromSettings takes those of Kafka's settings out of kv that are flags here:
// who the broker is. What both say must be the same.
func (f *brokerFlags) fromSettings(kv map[string]string, given func(flag string) bool) error {
	for name, flag := range flagFor {
		if _, ok := kv[name]; ok {
			return fmt.Errorf("%s: say it with --%s", name, flag)
		}
	}
	for _, name := range []string{"node.id", "broker.id"} {
		v, ok := kv[name]
		if !ok {
			continue
		}
		id, err := strconv.ParseInt(v, 10, 32)
		if err != nil || id < 0 {
			return fmt.Errorf("%s: %q is not a broker id", name, v)
		}
		if f.id != noID && f.id != int32(id) {
			return fmt.Errorf("%s: %d, but the broker's id is to be %d", name, id, f.id)
		}
		f.id = int32(id)
		delete(kv, name)
	}
	if v, ok := kv["broker.rack"]; ok {
		if given("rack") && f.rack != v {
			return fmt.Errorf("broker.rack: %q, but --rack is %q", v, f.rack)
		}
		f.rack = v
		delete(kv, "broker.rack")
	}
	return nil
}

// settingRow is a broker setting in a list of them.
type settingRow struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Default string `json:"default"`
	Dynamic bool   `json:"dynamic"` // can be changed at run time
	Doc     string `json:"doc"`
}

func listSettings(cmd *cobra.Command) error {
	rows := []settingRow{}
	for _, d := range config.BrokerDefs() {
		rows = append(rows, settingRow{d.Name, d.Type.String(), d.Default, d.Dynamic, d.Doc})
	}
	return printerOf(cmd).table(rows, "SETTING\tTYPE\tDEFAULT\tWHAT IT IS", func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Type, r.Default, r.Doc)
		}
	})
}
