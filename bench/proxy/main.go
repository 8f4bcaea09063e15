// Command proxy measures service proxies side by side on a node made of network
// namespaces, from outside: real binaries, real packets, and one API server in
// memory that writes to them all. With -kube-proxy it measures kube-proxy in the
// same run.
//
// A mode that this machine's kernel has not, such as ipvs, is measured in a guest
// with a stock kernel (hack/vm), where only comparisons mean anything.
//
//	make bench-proxy
//	go run ./bench/proxy -modes ipvs -sizes 1000 -memory "" -kube-proxy /usr/local/bin/kube-proxy
//	go run ./bench/proxy -sizes 1000,10000,40000 -kube-proxy /usr/local/bin/kube-proxy -json proxy.json -svg proxy.svg
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/bench/internal/machine"
	"github.com/sluicenet/sluice/internal/lab"
)

func main() {
	if len(os.Args) > 1 && helpers[os.Args[1]] != nil {
		if err := helpers[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", os.Args[1]+":", err)
			os.Exit(1)
		}
		return
	}
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	sluice, kubeProxy string
	endpoints         int
	writes            int
	rounds            int
	round             time.Duration
	limit             time.Duration
	peerSize          int
	verbose           bool
	guest             bool
}

// report is what -json writes.
type report struct {
	Machine string   `json:"machine"`
	Results []result `json:"results"`
}

// add keeps a result and shows it.
func (r *report) add(o options, res result) {
	r.Results = append(r.Results, res)
	if o.guest {
		_ = json.NewEncoder(os.Stdout).Encode(res)
		return
	}
	res.print(os.Stdout)
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the binary to measure")
	flag.StringVar(&o.kubeProxy, "kube-proxy", "", "a kube-proxy to measure beside it")
	modes := flag.String("modes", "nftables,iptables", "modes of sluice, and of kube-proxy if it is given; nftables+bytes counts the bytes of Services, too")
	sizes := flag.String("sizes", "1000,10000,40000", "numbers of Services; empty: none")
	flag.IntVar(&o.peerSize, "kube-proxy-size", 10000, "the largest number of Services for kube-proxy")
	memory := flag.String("memory", "30000x4", "Services x endpoints to measure memory with; empty: not")
	flag.IntVar(&o.endpoints, "endpoints", 10, "endpoints of each Service")
	flag.IntVar(&o.writes, "writes", 100, "writes to the API server whose effect is waited for; of slow proxies a fifth")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of traffic, each once directly and once through a Service")
	flag.DurationVar(&o.round, "round", 2*time.Second, "length of a round")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "how long a proxy may take to start")
	flag.BoolVar(&o.guest, "guest", false, "run in a guest with an emulated processor: probe less often, write each result as a line of JSON")
	flag.BoolVar(&o.verbose, "v", false, "show the logs of the proxies")
	out := flag.String("json", "", "file for the figures")
	svg := flag.String("svg", "", "file for a plot of them")
	flag.Parse()
	var err error
	if o.sluice, err = filepath.Abs(o.sluice); err != nil {
		return err
	}

	m, err := machine.Describe()
	if err != nil {
		return err
	}
	r := report{Machine: m}
	fmt.Println(m)
	measure := func(s subject, services, endpoints int, traffic bool) error {
		res, err := measure(ctx, o, s, services, endpoints, traffic)
		if err != nil {
			return fmt.Errorf("%s at %d x %d: %w", s, services, endpoints, err)
		}
		r.add(o, res)
		return nil
	}
	var here []string
	for mode := range strings.SplitSeq(*modes, ",") {
		if o.guest || !lacks(mode) {
			here = append(here, mode)
		} else if err := inGuest(ctx, o, mode, *sizes, func(res result) { r.add(o, res) }); err != nil {
			return err
		}
	}
	subjects := subjectsOf(o, here)
	for size := range strings.FieldsFuncSeq(*sizes, func(c rune) bool { return c == ',' }) {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("-sizes: %w", err)
		}
		for _, s := range subjects {
			if s.peer && n > o.peerSize {
				continue
			}
			if err := measure(s, n, o.endpoints, true); err != nil {
				return err
			}
		}
	}
	if *memory != "" {
		var services, endpoints int
		if _, err := fmt.Sscanf(*memory, "%dx%d", &services, &endpoints); err != nil {
			return fmt.Errorf("-memory: expected SERVICESxENDPOINTS, found %q", *memory)
		}
		for _, s := range subjects {
			if s.peer && services > o.peerSize {
				continue
			}
			if err := measure(s, services, endpoints, false); err != nil {
				return err
			}
		}
	}
	if *out != "" {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(*out, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if *svg != "" {
		return os.WriteFile(*svg, []byte(plot(r)), 0o644)
	}
	return nil
}
