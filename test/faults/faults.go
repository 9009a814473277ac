// Package faults does to the real binary what goes wrong in the world: a full
// disk, bytes that no client sends, starts on much data.
package faults
