package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// helpers are the programs that run inside of pods: this same binary, with
// their name as its first argument. A process of its own, unlike a thread of
// this one, may open sockets there as fast as the kernel can.
var helpers = map[string]func(args []string) error{
	"pod-serve": serve,
	"pod-watch": watch,
	"pod-load":  load,
}

// serve accepts connections and closes each when its client does.
func serve([]string) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}()
	}
}

// watch reads addresses, a line each, and writes for each the time at which a
// connection to it was accepted first. It begins one after the other, with a time
// between two and a time for each, for a lost packet would be sent again only after
// a second: EVERY TIMEOUT LIMIT.
func watch(args []string) error {
	if len(args) != 3 {
		return errors.New("expected EVERY TIMEOUT LIMIT")
	}
	var times [3]time.Duration
	for i := range times {
		var err error
		if times[i], err = time.ParseDuration(args[i]); err != nil {
			return err
		}
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		addr, err := netip.ParseAddrPort(in.Text())
		if err != nil {
			return err
		}
		at, err := firstAccepted(addr, times[0], times[1], times[2])
		if err != nil {
			return err
		}
		if _, err := fmt.Println(at.UnixNano()); err != nil {
			return err
		}
	}
	return in.Err()
}

func firstAccepted(addr netip.AddrPort, every, timeout, limit time.Duration) (time.Time, error) {
	won := make(chan time.Time, 1)
	var open atomic.Int32
	tick := time.NewTicker(every)
	defer tick.Stop()
	deadline := time.After(limit)
	for {
		select {
		case at := <-won:
			return at, nil
		case <-deadline:
			return time.Time{}, fmt.Errorf("%s accepts no connections after %v", addr, limit)
		case <-tick.C:
		}
		if open.Load() > 200 {
			continue
		}
		open.Add(1)
		go func() {
			defer open.Add(-1)
			d := net.Dialer{Timeout: timeout}
			c, err := d.Dial("tcp4", addr.String())
			if err != nil {
				return
			}
			at := time.Now()
			reset(c)
			select {
			case won <- at:
			default:
			}
		}()
	}
}

// reset closes a connection without a TIME_WAIT, of which there is a limited
// number.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// loadResult is what load writes, as JSON.
type loadResult struct {
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`
	Failed      int     `json:"failed"`
	P50         float64 `json:"p50_us"`
	P99         float64 `json:"p99_us"`
}

// load opens and closes connections to an address for some milliseconds, by as
// many workers: ADDR MILLISECONDS WORKERS. A pause between the connections of
// one worker, in microseconds, makes it a measurement of latency: [PAUSE].
func load(args []string) error {
	if len(args) != 4 {
		return errors.New("expected ADDR MILLISECONDS WORKERS PAUSE")
	}
	addr, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	var numbers [3]int
	for i := range numbers {
		if numbers[i], err = strconv.Atoi(args[i+1]); err != nil {
			return err
		}
	}
	length, pause := time.Duration(numbers[0])*time.Millisecond, time.Duration(numbers[2])*time.Microsecond
	var mu sync.Mutex
	var took []time.Duration
	failed := 0
	var workers sync.WaitGroup
	start := time.Now()
	for range numbers[1] {
		workers.Go(func() {
			var mine []time.Duration
			bad := 0
			for time.Since(start) < length {
				d, err := connect(addr)
				if err != nil {
					bad++
					continue
				}
				mine = append(mine, d)
				if pause > 0 {
					time.Sleep(pause)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			failed += bad
		})
	}
	workers.Wait()
	r := loadResult{Connections: len(took), Seconds: time.Since(start).Seconds(), Failed: failed}
	if len(took) > 0 {
		slices.Sort(took)
		r.P50 = float64(took[len(took)/2].Nanoseconds()) / 1000
		r.P99 = float64(took[len(took)*99/100].Nanoseconds()) / 1000
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// connect measures a blocking connect, without the runtime's poller.
func connect(addr netip.AddrPort) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	start := time.Now()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
