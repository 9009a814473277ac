// Package arch holds the project's import rules as a test: which tree of
// packages may import which. Imports point downwards only.
package arch
