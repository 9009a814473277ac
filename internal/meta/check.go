package meta

import (
	"fmt"
	"unicode/utf8"
)

// Validate refuses commits over the limits, with two operations on one item,
// with attributes of other types or with text that is not UTF-8, as ErrInvalid. Adapters call it first.
func Validate(id string, ops []Op) error {
	if id == "" || len(ops) == 0 || len(ops) > MaxOps {
		return fmt.Errorf("%w: id %q, %d operations", ErrInvalid, id, len(ops))
	}
	seen := make(map[Key]bool, len(ops))
	total := 0
	for _, op := range ops {
		if op.Kind < OpCreate || op.Kind > OpCheck {
			return fmt.Errorf("%w: operation %d", ErrInvalid, op.Kind)
		}
		if !validKey(op.Key) {
			return fmt.Errorf("%w: key %q", ErrInvalid, op.Key)
		}
		if seen[op.Key] {
			return fmt.Errorf("%w: two operations on %v", ErrInvalid, op.Key)
		}
		seen[op.Key] = true
		if op.Old.Version == 0 && (op.Kind == OpReplace || op.Kind == OpDelete) {
			return fmt.Errorf("%w: no old item of %v", ErrInvalid, op.Key)
		}
		n, err := sizeOf(op)
		if err != nil {
			return err
		}
		total += n
	}
	if total > MaxTxnBytes {
		return fmt.Errorf("%w: %d bytes", ErrInvalid, total)
	}
	return nil
}

func validKey(k Key) bool {
	return k.PK != "" && k.SK != "" && len(k.PK) <= MaxPKBytes && len(k.SK) <= MaxSKBytes && utf8.ValidString(k.PK) && utf8.ValidString(k.SK)
}

func sizeOf(op Op) (int, error) {
	n := len(op.Key.PK) + len(op.Key.SK) + 64
	for k, v := range op.Attrs {
		n += len(k)
		switch v := v.(type) {
		case string:
			if n += len(v); !utf8.ValidString(v) {
				return 0, fmt.Errorf("%w: attribute %s of %v is not UTF-8", ErrInvalid, k, op.Key)
			}
		case []byte:
			n += len(v)
		case int64, bool:
			n += 8
		default:
			return 0, fmt.Errorf("%w: attribute %s of %v is a %T", ErrInvalid, k, op.Key, v)
		}
	}
	if n > MaxItemBytes {
		return 0, fmt.Errorf("%w: item %v has %d bytes", ErrInvalid, op.Key, n)
	}
	return n, nil
}

// Holds tells whether an operation's condition is true of the item under its
// key (Version 0: none).
func (op Op) Holds(now Item) bool {
	if op.Kind == OpCreate {
		return now.Version == 0
	}
	return now.Version == op.Old.Version && (now.Version == 0 || now.CommitID == op.Old.CommitID)
}
