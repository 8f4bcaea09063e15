package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// traffic compares connections through a ClusterIP with connections directly to
// the pod behind it, in alternating rounds.
type traffic struct {
	Rate       float64 `json:"connections_per_s"`
	DirectRate float64 `json:"direct_connections_per_s"`
	RateRatio  float64 `json:"connections_ratio"` // median of the rounds
	// FirstPacketP50 and P99 are how much longer a connect takes, in µs.
	FirstPacketP50   float64 `json:"first_packet_p50_us"`
	FirstPacketP99   float64 `json:"first_packet_p99_us"`
	Throughput       float64 `json:"gbit_per_s"`
	DirectThroughput float64 `json:"direct_gbit_per_s"`
	ThroughputRatio  float64 `json:"throughput_ratio"`
}

// rounds alternates a measurement directly and through the Service, the first
// of the two changing, and returns the median of each and of their ratio.
func rounds(n int, one func(direct bool) (float64, error)) (through, direct, ratio float64, err error) {
	var t, d, r []float64
	for i := range n {
		var v [2]float64 // through, direct
		for j := range 2 {
			k := (i + j) % 2
			if v[k], err = one(k == 1); err != nil {
				return 0, 0, 0, err
			}
		}
		t, d, r = append(t, v[0]), append(d, v[1]), append(r, v[0]/v[1])
	}
	return median(t), median(d), median(r), nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// traffic measures on the way to a Service's address, whose only endpoint is the
// first server.
func (w *world) traffic(ctx context.Context, o options, vip netip.AddrPort) (*traffic, error) {
	pod := netip.AddrPortFrom(w.servers[0].IPv4(), port)
	to := func(direct bool) netip.AddrPort {
		if direct {
			return pod
		}
		return vip
	}
	length := fmt.Sprint(o.round.Milliseconds())
	t := &traffic{}
	var err error
	if t.Rate, t.DirectRate, t.RateRatio, err = rounds(o.rounds, func(direct bool) (float64, error) {
		var r loadResult
		if err := w.run(ctx, &r, w.self, "pod-load", to(direct).String(), length, "4", "0"); err != nil {
			return 0, err
		}
		if r.Failed > 0 {
			return 0, fmt.Errorf("%d connections to %s failed", r.Failed, to(direct))
		}
		return float64(r.Connections) / r.Seconds, nil
	}); err != nil {
		return nil, err
	}
	var p99 [2][]float64
	through, direct, _, err := rounds(o.rounds, func(direct bool) (float64, error) {
		var r loadResult
		if err := w.run(ctx, &r, w.self, "pod-load", to(direct).String(), length, "1", "500"); err != nil {
			return 0, err
		}
		i := 0
		if direct {
			i = 1
		}
		p99[i] = append(p99[i], r.P99)
		return r.P50, nil
	})
	if err != nil {
		return nil, err
	}
	t.FirstPacketP50, t.FirstPacketP99 = through-direct, median(p99[0])-median(p99[1])
	t.Throughput, t.DirectThroughput, t.ThroughputRatio, err = w.throughput(ctx, o, pod.Addr())
	return t, err
}

// throughput measures with iperf3, through the Service on iperf3's port.
func (w *world) throughput(ctx context.Context, o options, pod netip.Addr) (through, direct, ratio float64, err error) {
	seconds := fmt.Sprint(max(1, int(o.round.Seconds())))
	return rounds(o.rounds, func(toPod bool) (float64, error) {
		to := iperfVIP
		if toPod {
			to = pod
		}
		var out struct {
			Error string `json:"error"`
			End   struct {
				Received struct {
					Bits float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
			err := w.run(ctx, &out, "iperf3", "--json", "--connect-timeout", "5000", "-t", seconds, "-c", to.String())
			if err == nil {
				return out.End.Received.Bits / 1e9, nil
			}
			if time.Now().After(deadline) {
				return 0, err
			}
		}
	})
}
