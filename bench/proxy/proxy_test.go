package main

import (
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestRounds(t *testing.T) {
	var order []bool
	through, direct, ratio, err := rounds(3, func(isDirect bool) (float64, error) {
		order = append(order, isDirect)
		if isDirect {
			return 10, nil
		}
		return float64(len(order)), nil // 1, 4, 5
	})
	if err != nil || through != 4 || direct != 10 || ratio != 0.4 {
		t.Errorf("through %v, direct %v, ratio %v, error %v", through, direct, ratio, err)
	}
	if order[0] || !order[2] || order[4] {
		t.Errorf("the order does not alternate: %v", order)
	}
	broken := errors.New("broken")
	if _, _, _, err := rounds(3, func(bool) (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestPlot(t *testing.T) {
	svg := plot(report{Machine: "a <machine>", Results: []result{
		{Proxy: "sluice", Mode: "nftables", Services: 10, Endpoints: 2, ColdSeconds: 0.1, Memory: 50},
		{Proxy: "kube-proxy", Mode: "nftables", Services: 10, Endpoints: 2, ColdSeconds: 12, Memory: 90, Traffic: &traffic{RateRatio: 0.97}},
	}})
	d := xml.NewDecoder(strings.NewReader(svg))
	bars := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 1+5 { // the background; two figures of both, one of one
		t.Errorf("%d bars\n%s", bars, svg)
	}
	if barLength(1, 1, 1000) >= barLength(1000, 1, 1000) || barLength(1, 1, 1000) <= 0 {
		t.Error("the larger value has not the longer bar")
	}
}

// TestFirstAccepted begins before anybody listens.
func TestFirstAccepted(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := firstAccepted(addr, time.Millisecond, 50*time.Millisecond, 20*time.Millisecond); err == nil {
		t.Fatal("accepted by nobody")
	}
	type listening struct {
		net.Listener
		since time.Time
		err   error
	}
	open := make(chan listening, 1)
	time.AfterFunc(30*time.Millisecond, func() {
		since := time.Now()
		l, err := net.Listen("tcp4", addr.String())
		open <- listening{l, since, err}
	})
	at, err := firstAccepted(addr, time.Millisecond, 50*time.Millisecond, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	opened := <-open
	if opened.err != nil {
		t.Fatal(opened.err)
	}
	defer func() { _ = opened.Close() }()
	if at.Before(opened.since) {
		t.Errorf("accepted at %v, before it was opened at %v", at, opened.since)
	}
}

func TestResults(t *testing.T) {
	var said strings.Builder
	var got []result
	from := "Linux 6.1\r\n{\"proxy\":\"sluice\",\"mode\":\"ipvs\",\"services\":10,\"traffic\":{\"connections_ratio\":1}}\r\n{not ours}\r\n"
	if err := results(strings.NewReader(from), &said, func(r result) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Proxy != "sluice" || got[0].Services != 10 || !got[0].Guest || got[0].Traffic == nil {
		t.Errorf("results are %+v", got)
	}
	if said.String() != "Linux 6.1\n{not ours}\n" {
		t.Errorf("the guest said %q", said.String())
	}
}
