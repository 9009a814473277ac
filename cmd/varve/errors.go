package main

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// withMessage adds the broker's message to a protocol error, where it says more.
func withMessage(err error, message string) error {
	var ke *kerr.Error
	if err == nil || message == "" || errors.As(err, &ke) && ke.Description == message {
		return err
	}
	return fmt.Errorf("%s (%w)", message, err)
}

// isCode tells whether err is the protocol error of that name.
func isCode(err error, name string) bool {
	var ke *kerr.Error
	return errors.As(err, &ke) && ke.Message == name
}
