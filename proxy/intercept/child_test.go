package intercept

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
)

// childVariable makes the test binary be a node's name server; it is a childConfig.
const childVariable = "SLUICE_INTERCEPT_CHILD"

// childConfig is what a child is told.
type childConfig struct {
	Endpoints []netip.Addr // of the DNS Service
	Listen    []netip.AddrPort
	Local     []netip.Addr
	Alone     bool         // the DNS Service does not exist
	Unread    bool         // until SIGUSR2, the cluster's objects are not read
	Addresses []netip.Addr // by default both
	Linger    bool         // the server goes on when queries are not intercepted any more
}

func TestMain(m *testing.M) {
	if c := os.Getenv(childVariable); c != "" {
		if err := child(c); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(lab.Main(m))
}

// The addresses under which clients know the server.
var (
	link4    = netip.MustParseAddr("169.254.20.10")
	link6    = netip.MustParseAddr("fd73:6c75:6963:6500::20:10")
	cluster4 = netip.MustParseAddr("10.96.0.10")
	cluster6 = netip.MustParseAddr("fd00:10:96::a")
)

// localAnswer is what a child says to where "web" is.
var localAnswer = map[bool]netip.Addr{false: netip.MustParseAddr("10.96.0.80"), true: netip.MustParseAddr("fd00:10:96::80")}

const askedName = "web.default.svc.cluster.local"

// clusterStore is a cluster with the DNS Service and the Service "web".
func clusterStore(c childConfig) *model.Store {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		model.Namespaces.Put(tx, &model.Namespace{Meta: model.Meta{Name: "default"}})
		model.Services.Put(tx, &model.Service{
			Meta: model.Meta{Namespace: "default", Name: "web"}, Type: corev1.ServiceTypeClusterIP,
			ClusterIPs: []netip.Addr{localAnswer[false], localAnswer[true]},
		})
		if !c.Alone {
			putDNSService(tx, c.Endpoints)
		}
		if !c.Unread {
			synced(tx)
		}
	})
	if c.Unread {
		go func() {
			read := make(chan os.Signal, 1)
			signal.Notify(read, syscall.SIGUSR2)
			<-read
			store.Update(synced)
		}()
	}
	return store
}

func synced(tx *model.Txn) {
	for _, k := range []model.KindID{model.KindService, model.KindEndpointSlice, model.KindNamespace, model.KindPod} {
		tx.MarkSynced(k)
	}
}

func putDNSService(tx *model.Txn, endpoints []netip.Addr) {
	svc := &model.Service{
		Meta: model.Meta{Namespace: "kube-system", Name: "kube-dns"}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: []netip.Addr{cluster4, cluster6},
		Ports:      []model.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53}},
	}
	model.Services.Put(tx, svc)
	for _, six := range []bool{false, true} {
		s := &model.EndpointSlice{
			Meta: model.Meta{Namespace: "kube-system", Name: fmt.Sprintf("kube-dns-%v", six)}, Service: "kube-dns", IPv6: six, Weight: 1,
			Ports: []model.EndpointPort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53}},
		}
		for _, a := range endpoints {
			if a.Is6() == six {
				s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: a, Ready: true, Serving: true})
			}
		}
		model.EndpointSlices.Put(tx, s)
	}
}

// child runs a server with interception until SIGTERM, as sluice does.
func child(conf string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go devour()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store := clusterStore(c)
	var server *dns.Server
	var live *dns.Liveness
	if c.Addresses == nil {
		c.Addresses = []netip.Addr{link4, link6}
	}
	i, err := New(Options{
		Config: Config{Addresses: c.Addresses, Service: model.Name{Namespace: "kube-system", Name: "kube-dns"}, Node: "node1"},
		Store:  store, Log: log, Local: func() []netip.Addr { return c.Local },
		Alive: func() bool { return live.Alive(time.Now()) }, Ready: func() bool { return server.Zone().Ready() },
	})
	if err != nil {
		return err
	}
	server, err = dns.New(dns.Options{Store: store, Listen: append(i.Listen(), c.Listen...), Probers: i.Probers(), Log: log})
	if err != nil {
		return err
	}
	defer i.Close()
	live = server.Liveness()
	serving, done := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(serving) }()
	err = i.Run(ctx)
	if c.Linger {
		select {}
	}
	done()
	return firstError(err, <-ended)
}

// devour takes memory without end after SIGUSR1.
func devour() {
	hungry := make(chan os.Signal, 1)
	signal.Notify(hungry, syscall.SIGUSR1)
	<-hungry
	for eaten := [][]byte{}; ; {
		eaten = append(eaten, bytes.Repeat([]byte{1}, 1<<20))
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
