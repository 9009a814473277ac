package api

import (
	"errors"
	"syscall"
)

// isExhausted tells whether the process or system is out of file descriptors.
func isExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
