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
	switch d.Type {
	case Bool:
		if l := strings.ToLower(value); l != "true" && l != "false" {
			return invalid(d, value, "Expected value to be either true or false")
		}
	case Int, Long:
		return d.checkInt(value)
	case Double:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return invalid(d, value, "Not a number of type DOUBLE")
		}
		return d.checkRange(value, f)
	case List:
		if d.oneOf == nil {
			return nil
		}
		for _, v := range list(value) {
			if !slices.Contains(d.oneOf, v) {
				return invalid(d, v, "String must be one of: "+strings.Join(d.oneOf, ", "))
			}
		}
	case String:
		if d.oneOf != nil && !slices.Contains(d.oneOf, value) {
			return invalid(d, value, "String must be one of: "+strings.Join(d.oneOf, ", "))
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
