package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// check tells whether a value may be set, in Kafka's words (ConfigDef).
func (d Def) check(value string) error {
	if err := d.checkType(value); err != nil || d.also == nil {
		return err
	}
	return d.also(d, strings.TrimSpace(value))
}

func (d Def) checkType(value string) error {
	trimmed := strings.TrimSpace(value)
	switch d.Type {
	case Bool:
		if !strings.EqualFold(trimmed, "true") && !strings.EqualFold(trimmed, "false") {
			return invalid(d, value, "Expected value to be either true or false")
		}
	case Int, Long:
		return d.checkInt(value)
	case Double:
		f, err := strconv.ParseFloat(trimmed, 64)
		if err != nil {
			return invalid(d, value, "Not a number of type DOUBLE")
		}
		return d.checkRange(trimmed, f)
	case List:
		return d.checkList(trimmed)
	case String:
		if d.oneOf != nil && !slices.Contains(d.oneOf, trimmed) {
			return d.noneOf(value)
		}
	}
	return nil
}

// checkList checks a list's items. No item at all is a list too.
func (d Def) checkList(value string) error {
	if value == "" || d.oneOf == nil {
		return nil
	}
	for v := range strings.SplitSeq(value, ",") {
		v = strings.TrimSpace(v)
		if v == "" {
			return &Error{fmt.Sprintf("Configuration '%s' values must not be empty.", d.Name)}
		}
		if !slices.Contains(d.oneOf, v) {
			return d.noneOf(v)
		}
	}
	return nil
}

func (d Def) noneOf(value string) error {
	return invalid(d, value, "String must be one of: "+strings.Join(d.oneOf, ", "))
}

// gzipLevel checks a level of gzip: 1 to 9, or -1 for its default.
func gzipLevel(d Def, value string) error {
	if n := mustInt(value); n != -1 && (n < 1 || n > 9) {
		return invalid(d, value, "Value must be between 1 and 9 or equal to -1")
	}
	return nil
}

// throttledReplicas checks a list of partition:broker, or "*" for all.
func throttledReplicas(d Def, value string) error {
	if value == "" || value == "*" {
		return nil
	}
	items := strings.Split(value, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	for _, item := range items {
		p, b, ok := strings.Cut(item, ":")
		_, perr := strconv.ParseUint(p, 10, 31)
		_, berr := strconv.ParseUint(b, 10, 31)
		if !ok || perr != nil || berr != nil {
			return invalid(d, "["+strings.Join(items, ", ")+"]", d.Name+" must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...")
		}
	}
	return nil
}

func (d Def) checkInt(value string) error {
	bits := 64
	if d.Type == Int {
		bits = 32
	}
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, bits)
	if err != nil {
		return invalid(d, value, "Not a number of type "+d.Type.String())
	}
	return d.checkRange(value, float64(n))
}

func (d Def) checkRange(value string, n float64) error {
	if d.max <= d.min {
		return nil
	}
	if n < d.min {
		return invalid(d, value, "Value must be at least "+strconv.FormatFloat(d.min, 'f', -1, 64))
	}
	if n > d.max {
		return invalid(d, value, "Value must be no more than "+strconv.FormatFloat(d.max, 'f', -1, 64))
	}
	return nil
}

func invalid(d Def, value, why string) error {
	return &Error{fmt.Sprintf("Invalid value %s for configuration %s: %s", value, d.Name, why)}
}

// mustInt parses what check has let through.
func mustInt(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		panic("config: unchecked value " + s)
	}
	return n
}

// scale turns a value of a coarser unit into the finer one.
func scale(s string, factor int64) string {
	n := mustInt(s)
	if n < 0 {
		return s
	}
	if n > math.MaxInt64/factor {
		return strconv.FormatInt(math.MaxInt64, 10)
	}
	return strconv.FormatInt(n*factor, 10)
}

// checkLags checks the two lags of compaction against each other.
func checkLags(kv map[string]string) error {
	lag := func(name string) int64 {
		d, _ := find(topicDefs, name)
		if v, ok := kv[name]; ok {
			return mustInt(v)
		}
		return mustInt(d.Default)
	}
	if least, most := lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms"); least > most {
		return &Error{fmt.Sprintf("conflict topic config setting min.compaction.lag.ms (%d) > max.compaction.lag.ms (%d)", least, most)}
	}
	return nil
}
