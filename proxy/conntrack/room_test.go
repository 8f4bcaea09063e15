package conntrack

import (
	"log/slog"
	"strings"
	"testing"
)

// TestRoom asks the kernel for what it remembers.
func TestRoom(t *testing.T) {
	b := newTable(t)
	b.add("10.240.0.11:1000", "10.96.0.10:53", "10.244.1.10:53")
	r, err := NewAt(b.node.FD()).Room(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Entries != 1 || r.Limit == 0 || r.Dropped != 0 {
		t.Errorf("the kernel tells of %+v, want one entry and a limit", r)
	}
}

// TestWatch tells once that there is too little room, and once that there is
// enough.
func TestWatch(t *testing.T) {
	var log strings.Builder
	w := NewWatch(New(), slog.New(slog.NewTextHandler(&log, nil)))
	for _, step := range []struct {
		room Room
		want string // what is logged
	}{
		{Room{Entries: 10, Limit: 100, Dropped: 7}, ""}, // dropped before we looked
		{Room{Entries: 94, Limit: 100, Dropped: 7}, ""},
		{Room{Entries: 95, Limit: 100, Dropped: 7}, "nf_conntrack_max entries=95 limit=100 dropped=0"},
		{Room{Entries: 100, Limit: 100, Dropped: 9}, ""},
		{Room{Entries: 90, Limit: 100, Dropped: 9}, ""},
		{Room{Entries: 84, Limit: 100, Dropped: 10}, ""},
		{Room{Entries: 84, Limit: 100, Dropped: 10}, "room again"},
		{Room{Entries: 1, Limit: 100, Dropped: 12}, "dropped=2"},
		{Room{Entries: 1, Dropped: 12}, "room again"}, // no limit
	} {
		log.Reset()
		w.see(step.room)
		if got := log.String(); (got == "") != (step.want == "") || !strings.Contains(got, step.want) {
			t.Errorf("%+v: logged %q, want %q", step.room, got, step.want)
		}
	}
}
