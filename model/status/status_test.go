package status

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
)

var web = model.Key{Kind: model.KindService, Namespace: "default", Name: "web"}

func report(s metav1.ConditionStatus, message string) Report {
	return Report{Conditions: []metav1.Condition{{Type: "Accepted", Status: s, Reason: "Because", Message: message}}}
}

// quiet fails if the watcher has something to say within an hour.
func quiet(t *testing.T, w *Watcher, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if keys, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: woken for %v, %v", what, keys, err)
	}
}

func expect(t *testing.T, w *Watcher, want ...model.Key) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	got, err := w.Next(ctx)
	if err != nil || len(got) != len(want) {
		t.Fatalf("Next gives %v, %v; want %v", got, err, want)
	}
	for _, k := range want {
		if !slices.Contains(got, k) {
			t.Errorf("Next gives %v, want %v", got, want)
		}
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard()
		db := model.Key{Kind: model.KindService, Namespace: "default", Name: "db"}
		b.Set("proxy", web, report("True", ""))
		w := b.Watch()
		defer w.Stop()
		expect(t, w, web) // what was there before
		quiet(t, w, "nothing new")
		b.Set("proxy", web, report("True", ""))
		quiet(t, w, "the same report")
		b.Set("dns", web, report("True", ""))
		b.Set("proxy", web, report("False", ""))
		b.Set("proxy", db, report("True", ""))
		expect(t, w, web, db) // once each
		b.Clear("proxy", db)
		expect(t, w, db)
		b.Clear("proxy", db)
		b.Clear("nobody", web)
		quiet(t, w, "clearing nothing")
		if len(b.Get(db)) != 0 || len(b.Get(web)) != 2 || len(b.All()) != 1 {
			t.Errorf("board: %v", b.All())
		}
		w.Stop()
		b.Set("proxy", db, report("True", ""))
		quiet(t, w, "a stopped watch")
	})
}

// TestTransitionTime proves that the time is that of the last change of status,
// whatever else changes, and that it does not make a report a new one.
func TestTransitionTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard()
		at := func() time.Time { return b.Get(web)["proxy"].Conditions[0].LastTransitionTime.Time }
		start := time.Now()
		b.Set("proxy", web, report("True", "one"))
		time.Sleep(time.Minute)
		b.Set("proxy", web, report("True", "two"))
		if !at().Equal(start) {
			t.Errorf("a new message moved the time by %v", at().Sub(start))
		}
		if got := b.Get(web)["proxy"].Conditions[0].Message; got != "two" {
			t.Errorf("message %q", got)
		}
		b.Set("proxy", web, report("False", "two"))
		if !at().Equal(start.Add(time.Minute)) {
			t.Errorf("a new status is from %v after the start", at().Sub(start))
		}
	})
}

// TestCallersMemory proves that what is given in and out is not the board's.
func TestCallersMemory(t *testing.T) {
	b := NewBoard()
	r := report("True", "mine")
	b.Set("proxy", web, r)
	r.Conditions[0].Message = "changed"
	b.Get(web)["dns"] = Report{}
	b.All()[web]["dns"] = Report{}
	if got := b.Get(web); len(got) != 1 || got["proxy"].Conditions[0].Message != "mine" {
		t.Errorf("board: %v", got)
	}
}
