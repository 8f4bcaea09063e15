package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/echo"
)

// pair is a client of a server that it speaks to over pipes.
func pair(t *testing.T) *Client {
	t.Helper()
	toServer, fromClient := io.Pipe()
	toClient, fromServer := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(toServer, fromServer) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := NewClient(ctx, toClient, fromClient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		if err := <-done; err != nil {
			t.Errorf("the server ended: %v", err)
		}
	})
	return c
}

type sockets struct{ addrs []string }

func (s *sockets) Listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if err == nil {
		s.addrs = append(s.addrs, ln.Addr().String())
	}
	return ln, err
}

func (s *sockets) ListenPacket(network, address string) (net.PacketConn, error) {
	conn, err := net.ListenPacket(network, address)
	if err == nil {
		s.addrs = append(s.addrs, conn.LocalAddr().String())
	}
	return conn, err
}

func TestConnections(t *testing.T) {
	var listening sockets
	server, err := echo.Start(echo.Config{Name: "web-1", TCP: "127.0.0.1:0", UDP: "127.0.0.1:0"}, &listening)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	c := pair(t)
	var running sync.WaitGroup
	for range 50 {
		for i, network := range []string{"tcp", "udp"} {
			running.Go(func() {
				conn, err := c.DialContext(t.Context(), network, listening.addrs[i])
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.WriteString(conn, "who?\n"); err != nil {
					t.Error(err)
				}
				if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(got, "web-1 ") {
					t.Errorf("%s: %q, %v", network, got, err)
				}
			})
		}
	}
	running.Wait()
}

func TestEnds(t *testing.T) {
	c := pair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer's end is %v", err)
	}
	if conn, err = c.DialContext(t.Context(), "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if peer, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, err := peer.Read(make([]byte, 1)); err == nil {
		t.Error("our end does not come through")
	}
	_ = peer.Close()
	_ = ln.Close()
	if _, err := c.DialContext(t.Context(), "tcp", ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a refused connection is %v", err)
	}
}

func TestKill(t *testing.T) {
	const container = "0123456789abcdef0123456789abcdef"
	victim := exec.CommandContext(t.Context(), "sleep", "600")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	proc := t.TempDir()
	for pid, group := range map[int]string{victim.Process.Pid: "0::/../cri-" + container + ".scope\n", os.Getpid(): "0::/other\n"} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte(group), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := kill(proc, container); n != 1 || err != nil {
		t.Errorf("killed %d, %v", n, err)
	}
	if err := victim.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the victim: %v", err)
	}
	for _, wrong := range []string{"", "0", strings.Repeat("f", 32)} {
		if n, err := kill(proc, wrong); n != 0 || err == nil {
			t.Errorf("kill %q: %d, %v", wrong, n, err)
		}
	}
}

// FuzzTransfer reads frames of anything, and datagrams come out as they went in.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte("\x00\x03abc\x00\x00\x00\x05ab"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		if err := transfer(&out, bytes.NewReader(in), true, true); err == nil {
			t.Error("no end")
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Errorf("%x became %x", in, out.Bytes())
		}
		rest := in[out.Len():]
		if len(rest) >= 2 && len(rest) >= 2+int(binary.BigEndian.Uint16(rest)) {
			t.Errorf("%x is left", rest)
		}
	})
}
