package echo_test

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/echo"
)

// loopback opens sockets on free ports and remembers their addresses.
type loopback struct{ addrs []string }

func (l *loopback) Listen(network, _ string) (net.Listener, error) {
	ln, err := net.Listen(network, "127.0.0.1:0")
	if err == nil {
		l.addrs = append(l.addrs, ln.Addr().String())
	}
	return ln, err
}

func (l *loopback) ListenPacket(network, _ string) (net.PacketConn, error) {
	conn, err := net.ListenPacket(network, "127.0.0.1:0")
	if err == nil {
		l.addrs = append(l.addrs, conn.LocalAddr().String())
	}
	return conn, err
}

func TestServer(t *testing.T) {
	sockets := &loopback{}
	server, err := echo.Start(echo.Config{Name: "web-1", HTTP: ":80", TCP: ":9000", UDP: ":9000"}, sockets)
	if err != nil {
		t.Fatal(err)
	}
	request, _ := http.NewRequest("GET", "http://"+sockets.addrs[0]+"/a?b=c", nil)
	request.Host = "shop.example.com"
	request.Header.Set("X-Forwarded-Client-Cert", `By=spiffe://x/b;Hash=00;URI=spiffe://cluster.local/ns/default/sa/client`)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	var answer echo.Answer
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if answer.Name != "web-1" || answer.Host != "shop.example.com" || answer.Path != "/a?b=c" ||
		answer.PeerID != "spiffe://cluster.local/ns/default/sa/client" || !strings.HasPrefix(answer.Client, "127.0.0.1:") {
		t.Errorf("HTTP answer: %+v", answer)
	}
	for i, network := range []string{"tcp", "udp"} {
		conn, err := net.Dial(network, sockets.addrs[1+i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("again\n")); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(conn)
		if got, err := lines.ReadString('\n'); err != nil || got != "web-1 "+conn.LocalAddr().String()+"\n" {
			t.Errorf("%s: %q, %v", network, got, err)
		}
		if network == "tcp" {
			if got, err := lines.ReadString('\n'); err != nil || got != "again\n" {
				t.Errorf("tcp echo: %q, %v", got, err)
			}
		}
		_ = conn.Close()
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", sockets.addrs[1]); err == nil {
		t.Error("still listens after Close")
	}
}

func TestPeerID(t *testing.T) {
	for _, c := range []struct{ header, want string }{
		{"", ""},
		{"Hash=ab", ""},
		{"URI=spiffe://a", "spiffe://a"},
		{`By=spiffe://b;Hash=ab;Subject="CN=x,O=\"y\";z";URI=spiffe://a`, "spiffe://a"},
		{"URI=spiffe://a,By=spiffe://c;uri=spiffe://b", "spiffe://b"},
		{"URI=spiffe://a,Hash=ab", ""},
		{`Subject="URI=no,URI=no"`, ""},
		{`URI="spiffe://a"`, "spiffe://a"},
		{`URI=a=b`, "a=b"},
	} {
		if got := echo.PeerID(c.header); got != c.want {
			t.Errorf("PeerID(%q) = %q, want %q", c.header, got, c.want)
		}
	}
}

func FuzzPeerID(f *testing.F) {
	f.Add(`By=spiffe://b;Subject="CN=x,O=\"y\"";URI=spiffe://a,Hash=1`)
	f.Fuzz(func(t *testing.T, header string) {
		if id := echo.PeerID(header); len(id) > len(header) {
			t.Errorf("PeerID(%q) = %q", header, id)
		}
	})
}
