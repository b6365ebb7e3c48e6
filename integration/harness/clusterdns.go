package harness

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// clusterDomain is that of the names of services.
const clusterDomain = "cluster.local"

// DNS is the DNS server of a cluster. It knows headless Services, whose names lead to their pods, as CoreDNS does.
type DNS struct {
	t    testing.TB
	c    *Cluster
	conn net.PacketConn
	hide atomic.Pointer[string]
	done chan struct{}

	known map[[2]string]endpoints
}

// endpoints are the addresses of a Service, as they were a while ago: to ask the API takes seconds.
type endpoints struct {
	addresses string
	at        time.Time
}

// StartDNS starts the server that the kubelets give to pods.
func (c *Cluster) StartDNS(t testing.TB) *DNS {
	t.Helper()
	conn, err := net.ListenPacket("udp", controlIP+":53")
	if err != nil {
		t.Fatal(err)
	}
	d := &DNS{t: t, c: c, conn: conn, done: make(chan struct{}), known: map[[2]string]endpoints{}}
	d.Hide("")
	go d.serve()
	t.Cleanup(d.Stop)
	return d
}

// Stop ends the server.
func (d *DNS) Stop() {
	d.conn.Close()
	<-d.done
}

// Hide has the server leave out an address, as it does until it has heard of it.
func (d *DNS) Hide(address string) { d.hide.Store(&address) }

func (d *DNS) serve() {
	defer close(d.done)
	for buf := make([]byte, 512); ; {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var query dnsmessage.Message
		if query.Unpack(buf[:n]) != nil || len(query.Questions) != 1 {
			continue
		}
		answer, err := d.answer(query).Pack()
		if err == nil {
			_, err = d.conn.WriteTo(answer, from)
		}
		if err != nil {
			d.t.Logf("DNS: %v", err)
		}
	}
}

func (d *DNS) answer(query dnsmessage.Message) *dnsmessage.Message {
	q := query.Questions[0]
	reply := &dnsmessage.Message{Header: query.Header, Questions: query.Questions}
	reply.Response, reply.RecursionAvailable = true, true
	name, ok := strings.CutSuffix(q.Name.String(), ".svc."+clusterDomain+".")
	words := strings.Split(name, ".")
	if !ok || len(words) != 2 {
		reply.RCode = dnsmessage.RCodeNameError
		return reply
	}
	if q.Type != dnsmessage.TypeA {
		return reply
	}
	service := [2]string{words[0], words[1]}
	if time.Since(d.known[service].at) > 5*time.Second {
		out, err := d.c.TryKubectl("-n", words[1], "get", "endpointslices", "-l", "kubernetes.io/service-name="+words[0],
			"-o", "jsonpath={.items[*].endpoints[*].addresses[*]}")
		if err != nil {
			reply.RCode = dnsmessage.RCodeServerFailure
			return reply
		}
		d.known[service] = endpoints{out, time.Now()}
	}
	for _, text := range strings.Fields(d.known[service].addresses) {
		a, err := netip.ParseAddr(text)
		if err != nil || text == *d.hide.Load() || !a.Is4() {
			continue
		}
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
	}
	return reply
}
