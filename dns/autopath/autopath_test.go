package autopath

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

func name(t testing.TB, s string) []byte {
	t.Helper()
	n, err := wire.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return wire.AppendLower(nil, n)
}

func snapshot(change func(put func(name, ip string, change ...func(*model.Pod)))) *model.Snapshot {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		change(func(name, ip string, change ...func(*model.Pod)) {
			p := &model.Pod{Meta: model.Meta{Namespace: "shop", Name: name}, Node: "here", IPs: []netip.Addr{netip.MustParseAddr(ip)}}
			for _, f := range change {
				f(p)
			}
			model.Pods.Put(tx, p)
		})
		tx.MarkSynced(model.KindPod)
	})
	return store.Snapshot()
}

func walker(t testing.TB, search ...string) *Walker {
	t.Helper()
	w, err := New("here", "cluster.local", search)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWhoseWalk proves that only a Pod of this node whose address is its own is
// completed.
func TestWhoseWalk(t *testing.T) {
	s := snapshot(func(put func(string, string, ...func(*model.Pod))) {
		put("ok", "10.0.0.1")
		put("six", "fd00::1")
		put("host", "10.0.0.2", func(p *model.Pod) { p.HostNetwork = true })
		put("ended", "10.0.0.3", func(p *model.Pod) { p.Terminated = true })
		put("going", "10.0.0.4", func(p *model.Pod) { p.Deleting = true })
		put("there", "10.0.0.5", func(p *model.Pod) { p.Node = "there" })
		put("twice-1", "10.0.0.6")
		put("twice-2", "10.0.0.6", func(p *model.Pod) { p.Namespace = "other" })
		put("reused-1", "10.0.0.7", func(p *model.Pod) { p.Terminated = true })
		put("reused-2", "10.0.0.7", func(p *model.Pod) { p.Namespace = "other" })
	})
	w := walker(t)
	for _, c := range []struct {
		client, name string
		want         string // NAME, or none
	}{
		{"10.0.0.1", "www.example.com.shop.svc.cluster.local", "www.example.com."},
		{"::ffff:10.0.0.1", "web.shop.svc.cluster.local", "web."},
		{"fd00::1", "web.shop.svc.cluster.local", "web."},
		{"10.0.0.1", "web.other.svc.cluster.local", ""},
		{"10.0.0.1", "shop.svc.cluster.local", ""},
		{"10.0.0.1", "svc.cluster.local", ""},
		{"10.0.0.1", "cluster.local", ""},
		{"10.0.0.1", ".", ""},
		{"10.0.0.1", "web.shop.pod.cluster.local", ""},
		{"10.0.0.1", "web.shop.svc.example.com", ""},
		{"10.0.0.1", "web.shop.xsvc.cluster.local", ""},
		{"10.0.0.2", "web.shop.svc.cluster.local", ""},
		{"10.0.0.3", "web.shop.svc.cluster.local", ""},
		{"10.0.0.4", "web.shop.svc.cluster.local", ""},
		{"10.0.0.5", "web.shop.svc.cluster.local", ""},
		{"10.0.0.6", "web.shop.svc.cluster.local", ""},
		{"10.0.0.6", "web.other.svc.cluster.local", ""},
		{"10.0.0.7", "web.shop.svc.cluster.local", ""},
		{"10.0.0.7", "web.other.svc.cluster.local", "web."},
		{"10.0.0.8", "web.shop.svc.cluster.local", ""},
	} {
		walk, ok := w.Begin(s, netip.MustParseAddr(c.client), name(t, c.name))
		got := ""
		if ok {
			got = wire.NameString(append(slices.Clone(walk.name), 0))
		}
		if got != c.want {
			t.Errorf("%s asks for %s: completes %q, want %q", c.client, c.name, got, c.want)
		}
	}
	if _, ok := w.Begin(s, netip.Addr{}, name(t, "web.shop.svc.cluster.local")); ok {
		t.Error("completes for nobody")
	}
	if _, ok := w.Begin(model.NewStore().Snapshot(), netip.MustParseAddr("10.0.0.1"), name(t, "web.shop.svc.cluster.local")); ok {
		t.Error("completes before the Pods are read")
	}
}

func TestWalk(t *testing.T) {
	s := snapshot(func(put func(string, string, ...func(*model.Pod))) { put("ok", "10.0.0.1") })
	long := strings.Repeat(strings.Repeat("x", 60)+".", 3) + "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
	for asked, want := range map[string]string{
		"www.example.com": "www.example.com.svc.cluster.local. www.example.com.cluster.local. www.example.com.eu.corp. www.example.com.corp. www.example.com.",
		long:              long + ".svc.cluster.local. " + long + ".cluster.local. " + long + ".corp. " + long + ".",
	} {
		w := walker(t, "Eu.Corp", ".", "corp.")
		if asked == long {
			w = walker(t, strings.Repeat("z", 40)+".eu.corp", "corp")
		}
		walk, ok := w.Begin(s, netip.MustParseAddr("10.0.0.1"), name(t, asked+".shop.svc.cluster.local"))
		if !ok {
			t.Fatal("no walk")
		}
		var got []string
		for i := 0; ; {
			n, next, ok := walk.Next(nil, i)
			if !ok {
				break
			}
			got, i = append(got, wire.NameString(n)), next
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s\n got %q\nwant %q", asked, got, want)
		}
	}
}

func TestSearch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for text, want := range map[string]string{
		"nameserver 10.0.0.1\n":                       "",
		"search a.example b.example .\n":              "a.example b.example",
		"search a.example\ndomain b.example c\n":      "b.example",
		"domain b.example\nsearch a.example a..b\n#x": "a.example",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Search(path)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := Search(path + "x"); err == nil {
		t.Error("no error for a file that is not there")
	}
}

// FuzzBegin proves that no name takes a walk out of bounds, and that what it began
// with is the first of its path.
func FuzzBegin(f *testing.F) {
	s := snapshot(func(put func(string, string, ...func(*model.Pod))) { put("ok", "10.0.0.1") })
	for _, seed := range []string{"www.example.com.shop.svc.cluster.local", "shop.svc.cluster.local", "x"} {
		f.Add(name(f, seed))
	}
	w := walker(f, "corp")
	f.Fuzz(func(t *testing.T, question []byte) {
		msg := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
		var q wire.Query
		if q.Parse(append(msg, 0, 1, 0, 1), false) != wire.Answer {
			return
		}
		walk, ok := w.Begin(s, netip.MustParseAddr("10.0.0.1"), q.Name)
		if !ok {
			return
		}
		if string(q.Name) != string(walk.name)+"\x04shop\x03svc"+string(w.zone) {
			t.Errorf("%q is no search of %q", q.Name, walk.name)
		}
		last := []byte(nil)
		for i := 0; ; {
			n, next, ok := walk.Next(nil, i)
			if !ok {
				break
			}
			if _, whole := wire.AppendName(nil, n, 0); !whole {
				t.Errorf("%q is no name", n)
			}
			last, i = n, next
		}
		if string(last) != string(walk.name)+"\x00" {
			t.Errorf("the walk ends at %q", last)
		}
	})
}
