package delta

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func (l *lab) problems() string {
	var out []string
	for _, p := range l.srv.Progress("g").Problems {
		out = append(out, short(p.Ref)+": "+p.Reason)
	}
	return strings.Join(out, "\n")
}

func TestRefusedStaysAtLastGoodVersion(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(sc("ha", "bad1", "a"), sc("hb", "2", "a")))
	l.run()
	if got := l.takeLog(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "hb@2") || !strings.Contains(got, "ha@bad1 (refused)") {
		t.Fatalf("sent:\n%s", got)
	}
	if got, want := l.problems(), "ScopedRouteConfiguration ha: do not like it"; got != want {
		t.Errorf("problems %q, want %q", got, want)
	}
	if p := l.srv.Progress("g"); p.Current != 0 || p.Settled != 1 {
		t.Errorf("progress %+v", p)
	}
	// It is not sent again, and what its last good version needs is kept.
	l.srv.Apply(join(sc("hb", "3", "b")))
	l.run()
	l.want("ScopedRouteConfiguration hb@3")
	l.srv.Apply(join(sc("ha", "bad2", "b"), rm(cluster("a")), rm(endpoints("a"))))
	l.run()
	l.sleep(time.Hour)
	l.want("ScopedRouteConfiguration ha@bad2 (refused)")
	l.srv.Apply(join(sc("ha", "3", "b")))
	l.run()
	l.want("ScopedRouteConfiguration ha@3", "Cluster -a")
	l.check()
	if p := l.srv.Progress("g"); p.Current != 1 || len(p.Problems) != 0 {
		t.Errorf("progress %+v", p)
	}
}

func TestManyRefusedGoOneByOne(t *testing.T) {
	for _, typ := range []string{ScopedRouteType, ClusterType, ListenerType, EndpointsType} {
		t.Run(short(Ref{typ, ""}), func(t *testing.T) {
			l := start(t)
			l.takeLog()
			var changes []Change
			for i := range 40 {
				v := "1"
				if i == 7 || i == 23 {
					v = "bad"
				}
				name := fmt.Sprintf("x%02d", i)
				if typ == EndpointsType {
					changes = append(changes, Set("g", res(cluster(name), "1", endpoints(name))))
				}
				changes = append(changes, Set("g", res(Ref{typ, name}, v)))
			}
			l.srv.Apply(join(changes))
			l.run()
			l.check()
			if typ != EndpointsType && len(l.p.log) != 41 {
				t.Errorf("%d responses", len(l.p.log))
			}
			if p := l.srv.Progress("g"); len(p.Problems) != 2 || p.Problems[0].Ref.Name != "x07" || p.Problems[1].Ref.Name != "x23" || p.Settled != 1 && typ != EndpointsType {
				t.Errorf("progress %+v", p)
			}
			if typ == EndpointsType {
				return
			}
			// Who comes now gets the good ones without ado.
			l.p = newFakeProxy(t)
			l.connect()
			l.run()
			l.check()
			for _, line := range l.p.log {
				if strings.Contains(line, "refused") && strings.Contains(line, "x08") {
					t.Errorf("the known bad one spoiled it for others: %s", line)
				}
			}
		})
	}
}

// What needs a refused new cluster is held back, what needs a refused change
// of one goes: the old cluster is in force.
func TestRefusedCluster(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(cl("c", "bad"), sc("ha", "2", "c"),
		Set("g", res(cluster("b"), "bad", endpoints("b"))), sc("hb", "2", "b")))
	l.run()
	got := l.takeLog()
	if strings.Contains(got, "ha@2") || !strings.Contains(got, "hb@2") {
		t.Fatalf("sent:\n%s", got)
	}
	want := "Cluster b: do not like it\nCluster c: do not like it\n"
	if got := l.problems(); !strings.HasPrefix(got, want) || !strings.Contains(got, "ha: needs Cluster c, which the proxy refused: do not like it") {
		t.Errorf("problems:\n%s", got)
	}
	// Others are not held up, and nothing is removed under the held back.
	l.srv.Apply(join(cl("d", "1"), sc("hd", "1", "d")))
	l.run()
	l.want("Cluster d@1", "ClusterLoadAssignment d@1", "ScopedRouteConfiguration hd@1")
	if st := l.srv.Clients()[0].Types; st[0].Rejected != 2 || st[0].Rejections != 2 || st[0].LastError == "" {
		t.Errorf("status %+v", st)
	}
	l.srv.Apply(join(cl("c", "2"), cl("b", "2")))
	l.run()
	l.check()
	if p := l.srv.Progress("g"); p.Current != 1 || len(p.Problems) != 0 {
		t.Errorf("progress %+v", p)
	}
}

func TestNeedThatDoesNotExist(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(sc("ha", "2", "c")))
	l.run()
	l.want("")
	if got, want := l.problems(), "ScopedRouteConfiguration ha: needs Cluster c, which does not exist"; got != want {
		t.Errorf("problems %q, want %q", got, want)
	}
	l.srv.Apply(join(cl("c", "1")))
	l.run()
	l.want("Cluster c@1", "ClusterLoadAssignment c@1", "ScopedRouteConfiguration ha@2")
	if got := l.problems(); got != "" {
		t.Errorf("problems %q", got)
	}
}

// A refused version of endpoints does not keep a changed cluster warming: it
// gets the last good one.
func TestRefusedEndpoints(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(Set("g", res(endpoints("a"), "bad"))))
	l.run()
	l.srv.Apply(join(Set("g", res(cluster("a"), "2", endpoints("a")))))
	l.run()
	l.want("ClusterLoadAssignment a@bad (refused)", "Cluster a@2", "ClusterLoadAssignment a@1")
	if len(l.p.warming) > 0 {
		t.Errorf("warming: %v", l.p.warming)
	}
}
