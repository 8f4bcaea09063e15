// Command bench measures sluice from outside: the real binary on a node made
// of network namespaces, a directory of manifests of the size that is asked
// for, and the time from an edit until packets, DNS answers and requests show
// it. It prints a table, and with -json writes the figures to a file.
//
//	make bench
//	go run ./bench -sizes 1000,10000 -repeat 60 -json edit.json
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluicenet/sluice/bench/internal/machine"
	"github.com/sluicenet/sluice/internal/lab"
)

func main() {
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

// report is what -json writes.
type report struct {
	Machine string       `json:"machine"`
	Edits   []editFigure `json:"edits,omitempty"`
	Churn   *churnFigure `json:"churn,omitempty"`
}

func run(ctx context.Context) error {
	binary := flag.String("sluice", "bin/sluice", "the binary to measure")
	only := flag.String("only", "edit,churn", "which measurements: edit, churn")
	sizes := flag.String("sizes", "10,1000,10000", "numbers of Services, and of hosts with a route, for edit")
	repeat := flag.Int("repeat", 40, "edits of each kind and size")
	changes := flag.Int("changes", 200, "changes under load, for churn")
	rate := flag.Int("rate", 500, "requests a second, for churn")
	out := flag.String("json", "", "file for the figures")
	verbose := flag.Bool("v", false, "show the log of sluice")
	flag.Parse()

	m, err := machine.Describe()
	if err != nil {
		return err
	}
	r := report{Machine: m}
	fmt.Println(r.Machine)
	if strings.Contains(*only, "edit") {
		for size := range strings.SplitSeq(*sizes, ",") {
			n, err := strconv.Atoi(size)
			if err != nil {
				return fmt.Errorf("-sizes: %w", err)
			}
			figures, err := measureEdits(ctx, options{*binary, *verbose}, n, *repeat)
			if err != nil {
				return fmt.Errorf("edits at %d: %w", n, err)
			}
			r.Edits = append(r.Edits, figures...)
		}
	}
	if strings.Contains(*only, "churn") {
		if r.Churn, err = measureChurn(ctx, options{*binary, *verbose}, *changes, *rate); err != nil {
			return fmt.Errorf("churn: %w", err)
		}
	}
	if *out == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(b, '\n'), 0o644)
}
