package wire

import (
	"errors"
	"testing"
)

// TestParseResponseOwner proves that an answer whose record is of no readable name
// is refused, and not taken for one that has no such record.
func TestParseResponseOwner(t *testing.T) {
	name, err := ParseName("b.test")
	if err != nil {
		t.Fatal(err)
	}
	for owner, want := range map[byte]error{HeaderLen: nil, byte(HeaderLen + len(name) + 4): ErrMalformed} {
		msg := AppendQuery(nil, 7, FlagQR, name, TypeA, false, false)
		msg[7] = 1
		msg = append(msg, 0xc0, owner, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
		if _, err := ParseResponse(msg, name, TypeA); !errors.Is(err, want) {
			t.Errorf("a pointer to %d: %v, want %v", owner, err, want)
		}
	}
}
