package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// accountDir is where a pod has what its service account needs.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// nodeOfCluster is a node as the API server has it.
type nodeOfCluster struct {
	url    string // of the node
	token  string // its file, which the kubelet replaces before the token ends
	client *http.Client
}

var errNoAPI = errors.New("no API of Kubernetes: this runs in a pod with a service account")

func noAPI(what string) error { return fmt.Errorf("%w (%s)", errNoAPI, what) }

// nodeAPIOfPod finds the API server as programs in pods do.
func nodeAPIOfPod(node string) (*nodeOfCluster, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	switch {
	case node == "":
		return nil, errors.New("which node? set --node or VXCAN_NODE")
	case host == "" || port == "":
		return nil, noAPI("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	ca, err := os.ReadFile(accountDir + "/ca.crt")
	if err != nil {
		return nil, noAPI(err.Error())
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, noAPI("no certificate in " + accountDir + "/ca.crt")
	}
	return &nodeOfCluster{
		url:    "https://" + net.JoinHostPort(host, port) + "/api/v1/nodes/" + url.PathEscape(node),
		token:  accountDir + "/token",
		client: &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}, nil
}

// set reads the labels of the node, and changes those of ours that are not as they are to be.
func (n *nodeOfCluster) set(ctx context.Context, labels map[string]string) error {
	var node struct {
		Metadata struct{ Labels map[string]string }
	}
	if err := n.do(ctx, http.MethodGet, nil, &node); err != nil {
		return fmt.Errorf("read the labels of the node: %w", err)
	}
	patch := patchOf(node.Metadata.Labels, labels)
	if patch == nil {
		return nil
	}
	if err := n.do(ctx, http.MethodPatch, patch, nil); err != nil {
		return fmt.Errorf("label the node: %w", err)
	}
	slog.Info("labelled the node", "labels", strings.TrimSpace(string(patch)))
	return nil
}

// do sends a request and decodes the answer into v, unless that is nil.
func (n *nodeOfCluster) do(ctx context.Context, method string, body []byte, v any) error {
	token, err := os.ReadFile(n.token)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, n.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := n.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		var status struct{ Message string }
		_ = json.Unmarshal(content, &status) // a proxy's answer may be another text
		return fmt.Errorf("the API server answers %s: %s", answer.Status, status.Message)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(content, v)
}
