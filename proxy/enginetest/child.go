package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/conntrack"
)

// childVariable has the role of a process that a test started of its own binary.
const childVariable = "SLUICE_ENGINETEST"

// role is what such a process does, in the namespace of the node.
type role struct {
	Engine string
	// Powerless has the process try without CAP_NET_ADMIN.
	Powerless bool
	Hosts     map[string][2]netip.Addr
}

// Main is TestMain's: it runs the tests in a lab, or the role of a child.
func Main(m interface{ Run() int }, engines ...Engine) int {
	text := os.Getenv(childVariable)
	if text == "" {
		if err := mountLimit(); err != nil {
			return fail(err)
		}
		return lab.Main(m)
	}
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fail(err)
	}
	for _, e := range engines {
		if e.Name == r.Engine {
			return fail(r.run(e))
		}
	}
	return fail(fmt.Errorf("no engine is called %q", r.Engine))
}

func fail(err error) int {
	if err == nil {
		return 0
	}
	fmt.Println(err)
	return 1
}

// run drives the engine through changes without an end, until it is killed.
func (r role) run(e Engine) error {
	if r.Powerless {
		return powerless(e)
	}
	w := &World{hosts: map[string]*host{}}
	for name, addrs := range r.Hosts {
		w.hosts[name] = &host{name: name, addrs: addrs, node: map[bool]string{true: "node1", false: "node2"}[name < "c"]}
	}
	store := model.NewStore()
	states, err := w.killStates()
	if err != nil {
		return err
	}
	store.Update(func(tx *model.Txn) {
		for _, obj := range states[0] {
			put(tx, obj)
		}
		put(tx, &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: []netip.Addr{w.hosts["node"].addr(4), w.hosts["node"].addr(6)}})
		tx.MarkSynced(model.KindService)
		tx.MarkSynced(model.KindEndpointSlice)
	})
	engine, err := e.New(Options{})
	if err != nil {
		return err
	}
	cfg, err := config(nil)
	if err != nil {
		return err
	}
	ready := false
	go func() {
		for i := 1; ; i++ {
			time.Sleep(2 * time.Millisecond)
			store.Update(func(tx *model.Txn) {
				for _, obj := range states[i%len(states)] {
					put(tx, obj)
				}
			})
		}
	}()
	return proxy.Run(context.Background(), proxy.Options{
		Updates: store.Watch(), Planner: proxy.NewPlanner(cfg), Engine: engine, Flows: conntrack.New(), VerifyEvery: 20 * time.Millisecond,
		Applied: func(*proxy.Plan, []proxy.Change) {
			if !ready {
				fmt.Println("ready")
			}
			ready = true
		},
	})
}

// killStates are what the model goes through; the first has all objects. Some
// endpoint is always there.
func (w *World) killStates() ([]map[model.Key]any, error) {
	var out []map[model.Key]any
	for _, endpoints := range [][]string{{"b", "c"}, {"b"}, {"b", "c", "d"}, {"c"}, {"a", "d"}} {
		o := &objects{w: w, put: map[model.Key]any{}}
		err := o.service("web", []string{"nodeport", "lb=lb"})
		if err == nil {
			err = o.endpoints("web", nil, endpoints)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, o.put)
	}
	for i := range 200 { // so that a start takes a while
		name := fmt.Sprintf("filler-%d", i)
		o := &objects{w: w, put: out[0]}
		if err := o.service(name, []string{"vip=none", "ports=t:80/tcp>8080"}); err != nil {
			return nil, err
		}
		s := out[0][key(model.KindService, name)].(*model.Service)
		s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 10, byte(i)})}
		if err := o.endpoints(name, []string{"only=4"}, []string{"a", "b", "c", "d"}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// powerlessVariable is set when the process has given up its right.
const powerlessVariable = childVariable + "_POWERLESS"

// powerless tries to program without CAP_NET_ADMIN, and fails unless the engine
// says that it cannot.
func powerless(e Engine) error {
	if os.Getenv(powerlessVariable) == "" {
		// A bounding set is a thread's; a program that the thread starts has it
		// in all of its threads.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0); err != nil {
			return fmt.Errorf("give up CAP_NET_ADMIN: %w", err)
		}
		return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), powerlessVariable+"=1"))
	}
	engine, err := e.New(Options{})
	if err == nil {
		defer func() { _ = engine.Close() }()
		err = engine.Sync(context.Background(), proxy.NewPlanner(proxy.Config{Node: "node1"}).Plan())
	}
	var unsupported *proxy.UnsupportedError
	switch {
	case err == nil:
		return errors.New("it programmed the kernel without CAP_NET_ADMIN")
	case !errors.As(err, &unsupported):
		return fmt.Errorf("the error is a %T: %w", err, err)
	case unsupported.Remedy == "":
		return fmt.Errorf("no remedy in %w", err)
	}
	fmt.Println("ok:", err)
	return nil
}
