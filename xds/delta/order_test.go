package delta

import (
	"strings"
	"testing"
	"time"
)

// start connects a proxy to a group with a listener, and two scopes of two
// clusters.
func start(t *testing.T, more ...Change) *lab {
	l := newLab(t, Options{}, "g")
	l.srv.Apply(join(cl("a", "1"), cl("b", "1"), sc("ha", "1", "a"), sc("hb", "1", "b"),
		Set("g", res(listener("l"), "1")), more))
	l.connect()
	l.run()
	l.check()
	if p := l.srv.Progress("g"); p.Current != 1 || len(p.Problems) != 0 {
		t.Fatalf("progress %+v", p)
	}
	return l
}

func TestStart(t *testing.T) {
	l := start(t)
	l.want("Cluster a@1 b@1", "Listener l@1", "ClusterLoadAssignment a@1", "ClusterLoadAssignment b@1",
		"ScopedRouteConfiguration ha@1 hb@1")
}

// A proxy without anything to get is answered, or it would not become ready.
func TestStartEmpty(t *testing.T) {
	l := newLab(t, Options{}, "g")
	l.connect()
	l.run()
	l.want("Cluster ", "Listener ", "ScopedRouteConfiguration ")
	if p := l.srv.Progress("g"); p.Current != 1 {
		t.Fatalf("progress %+v", p)
	}
}

func TestSwap(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(cl("c", "1"), sc("ha", "2", "c"), rm(cluster("a")), rm(endpoints("a"))))
	if p := l.srv.Progress("g"); p.Current != 0 {
		t.Fatalf("current before anything was sent: %+v", p)
	}
	l.run()
	l.check()
	l.want("Cluster c@1", "ClusterLoadAssignment c@1", "ScopedRouteConfiguration ha@2", "Cluster -a")
}

// What changes with a cluster waits for it; what does not goes its way.
func TestOnlyWhatDependsWaits(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(cl("c", "1"), sc("ha", "2", "c"), sc("hb", "2", "b"), Set("g", res(endpoints("b"), "2"))))
	for l.server(true) { // nothing gets to the proxy
	}
	for l.proxy() {
	}
	got := l.takeLog()
	for _, w := range []string{"Cluster c@1", "ClusterLoadAssignment b@2", "ScopedRouteConfiguration hb@2"} {
		if !strings.Contains(got, w) {
			t.Errorf("%s was not sent at once, but\n%s", w, got)
		}
	}
	if strings.Contains(got, "ha@2") {
		t.Errorf("ha did not wait for c:\n%s", got)
	}
	l.run()
	l.check()
}

// Envoy never asks for the endpoints of a cluster that it has.
func TestChangedClusterBringsItsEndpoints(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(Set("g", res(cluster("a"), "2", endpoints("a"))), sc("ha", "2", "a")))
	l.run()
	l.want("Cluster a@2", "ClusterLoadAssignment a@1", "ScopedRouteConfiguration ha@2")
}

func TestReconnect(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.connect()
	l.run()
	l.want("Cluster ", "Listener ", "ScopedRouteConfiguration ")

	// Meanwhile a cluster changed: its endpoints come with it, though the
	// proxy has them in the version that there is.
	l.srv.disconnect(l.c)
	l.srv.Apply(join(Set("g", res(cluster("a"), "2", endpoints("a"))), sc("ha", "2", "a"),
		rm(scope("hb")), rm(cluster("b")), rm(endpoints("b"))))
	l.c = nil
	l.connect()
	l.run()
	l.want("Cluster a@2", "ClusterLoadAssignment a@1", "Listener ", "ScopedRouteConfiguration ha@2")
	if len(l.p.warming) > 0 {
		t.Errorf("warming: %v", l.p.warming)
	}
	l.sleep(l.wait)
	l.want("ScopedRouteConfiguration -hb", "Cluster -b")
	l.check()
}

// A new server knows what a proxy has only by its versions.
func TestServerRestart(t *testing.T) {
	l := start(t)
	again := newLab(t, Options{}, "g")
	again.p = l.p
	again.srv.Apply(join(cl("a", "1"), cl("b", "1"), sc("ha", "1", "a"), sc("hb", "1", "b"), Set("g", res(listener("l"), "1"))))
	got := l.p.got
	again.connect()
	again.run()
	again.check()
	if l.p.got != got {
		t.Errorf("%d resources were sent again:\n%s", l.p.got-got, again.takeLog())
	}
	if p := again.srv.Progress("g"); p.Current != 1 {
		t.Errorf("progress %+v", p)
	}

	// One that begins with another configuration.
	third := newLab(t, Options{}, "g")
	third.p = l.p
	third.srv.Apply(join(cl("a", "1"), sc("ha", "2", "a")))
	third.connect()
	third.run()
	third.sleep(third.wait)
	third.check()

	// One that has nothing yet takes nothing away.
	fourth := newLab(t, Options{}, "g")
	fourth.p = l.p
	have := len(l.p.have)
	fourth.connect()
	fourth.run()
	fourth.sleep(time.Minute)
	if len(l.p.have) != have {
		t.Errorf("an empty server left %d of %d resources", len(l.p.have), have)
	}
	fourth.srv.Apply(join(cl("a", "1"), sc("ha", "2", "a")))
	fourth.run()
	fourth.check()
}

// A proxy that does not warm does not stop others for ever.
func TestWarmLimit(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.p.warming["elsewhere"] = true
	l.srv.Apply(join(cl("c", "1"), sc("ha", "2", "c")))
	l.run()
	l.want("Cluster c@1", "ClusterLoadAssignment c@1")
	l.sleep(l.wait / 2)
	l.want("")
	l.sleep(l.wait)
	l.want("ScopedRouteConfiguration ha@2")
}

// A removal waits for what was changed with it, though that does not name it:
// a wildcard host that takes over.
func TestRemovalWaitsForWhatReplacesIt(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(cl("c", "1"), sc("wild", "1", "c"), rm(scope("ha"))))
	l.run()
	l.want("Cluster c@1", "ClusterLoadAssignment c@1", "ScopedRouteConfiguration wild@1", "ScopedRouteConfiguration -ha")
}

// Envoy removes first in a response: the new listener may have the old one's
// address.
func TestListenerTakesAddressOver(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(Set("g", res(listener("m"), "1", cluster("c"))), rm(listener("l")), cl("c", "1")))
	l.run()
	l.want("Cluster c@1", "ClusterLoadAssignment c@1", "Listener m@1 -l")
	l.check()
}

func TestRemoveAndAddAgain(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(rm(scope("ha")), rm(cluster("a")), rm(endpoints("a"))))
	l.srv.Apply(join(cl("a", "1"), sc("ha", "1", "a")))
	l.run()
	l.want("")
	l.srv.Apply(join(rm(scope("ha")), rm(cluster("a")), rm(endpoints("a"))))
	l.run()
	l.srv.Apply(join(cl("a", "1"), sc("ha", "1", "a")))
	l.run()
	l.want("ScopedRouteConfiguration -ha", "Cluster -a", "Cluster a@1", "ClusterLoadAssignment a@1", "ScopedRouteConfiguration ha@1")
	l.check()
}

// While a version is on its way only the newest after it is kept.
func TestSuperseded(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(sc("ha", "2", "a")))
	l.server(false)
	for _, v := range []string{"3", "4", "5", "6"} {
		l.srv.Apply(join(sc("ha", v, "b")))
		l.server(false)
	}
	l.run()
	l.want("ScopedRouteConfiguration ha@2", "ScopedRouteConfiguration ha@6")
	l.check()
}

// A cluster that warms for a reason which its next version ends.
func TestNewerVersionEndsWarming(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.p.warming["a"] = true
	l.srv.Apply(join(Set("g", res(cluster("a"), "2"))))
	l.run()
	l.want("Cluster a@2")
	l.srv.Apply(join(Set("g", res(cluster("a"), "3", endpoints("a")))))
	l.run()
	l.want("")
	l.sleep(l.wait)
	l.want("Cluster a@3", "ClusterLoadAssignment a@1")
	l.check()
}

func TestGroups(t *testing.T) {
	l := newLab(t, Options{}, "g", "own")
	l.srv.Apply(append(join(cl("a", "1"), sc("ha", "1", "a")),
		Set("own", res(listener("in"), "1", cluster("a"))), Set("own", res(scope("ha"), "own", cluster("a")))))
	l.connect()
	l.run()
	l.want("Cluster a@1", "ClusterLoadAssignment a@1", "Listener in@1", "ScopedRouteConfiguration ha@own")
	for _, g := range l.names {
		if p := l.srv.Progress(g); p.Current != 1 {
			t.Errorf("%s: %+v", g, p)
		}
	}
	l.srv.Apply([]Change{Remove("own", scope("ha"))})
	l.run()
	l.want("ScopedRouteConfiguration ha@1")
}

// A resource that is removed while another of its group needs it stays.
func TestRemovedWhileNeeded(t *testing.T) {
	l := start(t)
	l.takeLog()
	l.srv.Apply(join(rm(cluster("a")), rm(endpoints("a"))))
	l.run()
	l.want("")
	// Who comes now gets it too, as the route points there.
	l.p = newFakeProxy(t)
	l.connect()
	l.run()
	if l.p.have[cluster("a")] == nil || l.p.have[scope("ha")] == nil {
		t.Errorf("a new proxy does not get the last good state:\n%s", l.takeLog())
	}
	l.takeLog()
	l.srv.Apply(join(sc("ha", "2", "b")))
	l.run()
	l.want("ScopedRouteConfiguration ha@2", "Cluster -a")
	l.check()
}

// Answers in another order than the responses leave the newest in force.
func TestAnswersOutOfOrder(t *testing.T) {
	l := start(t)
	for _, v := range []string{"2", "3"} {
		l.srv.Apply(join(sc("ha", v, "b")))
		l.server(false)
		l.now = l.now.Add(patience)
	}
	for l.proxy() {
	}
	if len(l.p.out) != 2 {
		t.Fatalf("%d answers", len(l.p.out))
	}
	l.p.out[0], l.p.out[1] = l.p.out[1], l.p.out[0]
	l.takeLog()
	l.run()
	l.want("")
	if v := l.c.byURL[ScopedRouteType].items["ha"].acked.version; v != "3" {
		t.Errorf("version %s is taken to be in force", v)
	}
}
