package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// churnFigure counts what failed while everything changed.
type churnFigure struct {
	Changes int            `json:"changes"`
	Seconds float64        `json:"seconds"`
	Sent    map[string]int `json:"sent"`
	Failed  map[string]int `json:"failed"`
}

// measureChurn makes random changes to Services, endpoints, routes, weights and
// policies while requests go through the kernel, the Gateway and a pair of
// sidecars, and kills sluice twice on the way.
func measureChurn(ctx context.Context, opt options, changes, rate int) (*churnFigure, error) {
	w, err := newWorld(opt, 7)
	if err != nil {
		return nil, err
	}
	defer w.close()
	m := newMutator(w, rand.New(rand.NewPCG(1, 2)))
	if err := m.begin(); err != nil {
		return nil, err
	}
	if err := fill(w, 100); err != nil {
		return nil, err
	}
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	if err := m.sidecars(ctx); err != nil {
		return nil, err
	}
	ways := m.ways()
	for _, way := range ways {
		if err := until(ctx, 60*time.Second, func() (bool, error) {
			time.Sleep(20 * time.Millisecond)
			err := way.one(ctx)
			return err == nil, err
		}); err != nil {
			return nil, fmt.Errorf("start: %s: %w\n%s", way.name, err, w.log)
		}
	}

	start := time.Now()
	loadCtx, stop := context.WithCancel(ctx)
	var l load
	var running sync.WaitGroup
	running.Go(func() { l.run(loadCtx, rate, ways) })
	err = func() error {
		for i := range changes {
			if i == changes/3 || i == 2*changes/3 {
				if err := w.kill(); err != nil {
					return err
				}
				if err := w.start(ctx); err != nil {
					return err
				}
			}
			if err := m.change(); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(5+m.rand.IntN(95)) * time.Millisecond):
			}
		}
		time.Sleep(time.Second) // for what the last change does
		return nil
	}()
	stop()
	running.Wait()
	if err != nil {
		return nil, err
	}
	f := &churnFigure{Changes: changes, Seconds: time.Since(start).Seconds(), Sent: l.sent, Failed: l.failed}
	fmt.Printf("%d changes and 2 kills in %.0f s at %d requests/s\n", changes, f.Seconds, rate)
	for _, way := range ways {
		fmt.Printf("  %-42s %6d requests, %d failed\n", way.name, f.Sent[way.name], f.Failed[way.name])
	}
	for _, failure := range l.failures {
		fmt.Println("   ", failure)
	}
	if len(l.failures) > 0 && !opt.verbose {
		fmt.Println(w.log)
	}
	return f, nil
}

// mutator writes manifests and changes them at random, so that each state is
// one in which every request can be answered.
type mutator struct {
	w     *world
	rand  *rand.Rand
	round int
	extra map[int]bool // numbers of the hosts that come and go
}

func newMutator(w *world, r *rand.Rand) *mutator {
	return &mutator{w: w, rand: r, extra: map[int]bool{}}
}

const churnServices = `apiVersion: v1
kind: Service
metadata: {name: edit}
spec:
  clusterIP: 10.96.0.100
  ports: [{name: tcp-echo, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.101
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web-a}
spec:
  clusterIP: 10.96.0.102
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web-b}
spec:
  clusterIP: 10.96.0.103
  ports: [{name: http, port: 80, targetPort: 8080}]
`

// begin writes the first state.
func (m *mutator) begin() error {
	for name, text := range map[string]string{
		"services.yaml": churnServices, "gateway.yaml": gateway,
		"edit-slice.yaml":  slice("edit", "tcp-echo", 9000, m.w.pods[0].IPv4()),
		"web-slice.yaml":   slice("web", "http", 8080, m.w.pods[0].IPv4()),
		"web-a-slice.yaml": slice("web-a", "http", 8080, m.w.pods[0].IPv4()),
		"web-b-slice.yaml": slice("web-b", "http", 8080, m.w.pods[1].IPv4()),
		"route.yaml":       m.route(),
		"mesh.yaml":        m.mesh(),
	} {
		if _, err := m.w.write(name, text); err != nil {
			return err
		}
	}
	return m.writeMeshPods()
}

// change makes one random change.
func (m *mutator) change() error {
	m.round++
	write := func(name, text string) error {
		_, err := m.w.write(name, text)
		return err
	}
	switch m.rand.IntN(7) {
	case 0:
		return write("edit-slice.yaml", slice("edit", "tcp-echo", 9000, m.some()...))
	case 1:
		return write("web-slice.yaml", slice("web", "http", 8080, m.some()...))
	case 2:
		return write("web-a-slice.yaml", slice("web-a", "http", 8080, m.some()...))
	case 3, 4:
		return write("route.yaml", m.route())
	case 5:
		return m.host()
	default:
		return write("mesh.yaml", m.mesh())
	}
}

// some returns one to four of the pods that always run.
func (m *mutator) some() []netip.Addr {
	var out []netip.Addr
	for _, i := range m.rand.Perm(4)[:1+m.rand.IntN(4)] {
		out = append(out, m.w.pods[i].IPv4())
	}
	return out
}

// route sends a host to one or two of the Services, in ever new ways: each
// round brings clusters and takes others away.
func (m *mutator) route() string {
	all := []string{"web", "web-a", "web-b"}
	m.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: churn}
spec:
  parentRefs: [{name: web}]
  hostnames: [churn.example.com]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-version, value: "%d"}]}
    backendRefs: [{name: %s, port: 80, weight: %d}, {name: %s, port: 80, weight: %d}]
`, m.round, all[0], 1+m.rand.IntN(9), all[1], m.rand.IntN(3))
}

// host adds or removes a host beside the one that is asked for.
func (m *mutator) host() error {
	n := m.rand.IntN(20)
	m.extra[n] = !m.extra[n]
	name := fmt.Sprintf("extra-%d", n)
	if !m.extra[n] {
		return m.w.remove(name + ".yaml")
	}
	_, err := m.w.write(name+".yaml", httpRoute(name, name+".example.com", fmt.Sprint(m.round)))
	return err
}

// ways are the paths on which requests go.
func (m *mutator) ways() []way {
	inside := &http.Client{Transport: m.w.client.Transport(), Timeout: 5 * time.Second}
	gateway := netip.AddrPortFrom(m.w.node.IPv4(), 80).String()
	return append([]way{
		{"kernel: new connection to a ClusterIP", func(ctx context.Context) error {
			_, err := hostname(ctx, m.w.pods[3].Namespace, "10.96.0.100:9000")
			return err
		}},
		{"Gateway: kept connections", func(ctx context.Context) error {
			return expect200(ctx, inside, gateway, "churn.example.com")
		}},
		{"Gateway: new connections", func(ctx context.Context) error {
			c := m.w.client.HTTPClient()
			defer c.CloseIdleConnections()
			return expect200(ctx, c, gateway, "churn.example.com")
		}},
	}, m.meshWays()...)
}

func expect200(ctx context.Context, c *http.Client, address, host string) error {
	got, err := ask(ctx, c, address, host)
	if err != nil {
		return err
	}
	if got.status != http.StatusOK {
		return fmt.Errorf("status %d: %.100s", got.status, got.body)
	}
	return nil
}

// from returns a client whose requests come from a pod.
func from(pod *lab.Pod) *http.Client {
	return &http.Client{Transport: pod.Transport(), Timeout: 5 * time.Second}
}
