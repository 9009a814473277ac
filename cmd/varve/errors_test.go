package main

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

func TestWithMessage(t *testing.T) {
	for _, tt := range []struct {
		err           error
		message, want string
	}{
		{kerr.InvalidConfig, "Unknown topic config name: foo", "Unknown topic config name: foo (INVALID_CONFIG: Configuration is invalid.)"},
		{kerr.InvalidConfig, kerr.InvalidConfig.Description, "INVALID_CONFIG: Configuration is invalid."},
		{kerr.InvalidConfig, "", "INVALID_CONFIG: Configuration is invalid."},
	} {
		if got := withMessage(tt.err, tt.message).Error(); got != tt.want {
			t.Errorf("message %q: %q, want %q", tt.message, got, tt.want)
		}
	}
	if err := withMessage(nil, "fine"); err != nil {
		t.Errorf("no error, with a message: %v", err)
	}
}
