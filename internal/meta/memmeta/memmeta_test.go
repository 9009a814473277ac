package memmeta_test

import (
	"testing"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/internal/meta/metatest"
)

func TestConformance(t *testing.T) {
	metatest.Run(t, func(*testing.T) meta.Store { return memmeta.New() })
}

func TestFaultConformance(t *testing.T) {
	metatest.RunFaults(t, func(t *testing.T) (meta.Store, metatest.Faults) { return metatest.WithFaults(memmeta.New()) })
}
