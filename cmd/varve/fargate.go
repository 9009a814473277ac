package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// fargateURI is the variable in which ECS tells a container where its task's
// metadata are (task metadata endpoint, version 4).
const fargateURI = "ECS_CONTAINER_METADATA_URI_V4"

// fargateTask is what a broker takes from the metadata of its task.
type fargateTask struct {
	addr netip.Addr // private, of the task's own network interface
	zone string
}

// id is the broker id that goes with the address: its last two bytes. A VPC's
// block is a /16 at the largest, so no two tasks have the same at a time. One
// that gets a former task's address goes on with its id, as after a restart.
func (t fargateTask) id() int32 {
	b := t.addr.As4()
	return int32(b[2])<<8 | int32(b[3])
}

func readFargateTask(ctx context.Context, uri string) (t fargateTask, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the task's metadata: %w", err)
		}
	}()
	if uri == "" {
		return t, fmt.Errorf("%s is not set: this is no Fargate task", fargateURI)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri+"/task", nil)
	if err != nil {
		return t, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return t, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return t, fmt.Errorf("status %s", resp.Status)
	}
	var doc struct {
		AvailabilityZone string
		Containers       []struct {
			Networks []struct{ IPv4Addresses []netip.Addr }
		}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc); err != nil {
		return t, err
	}
	t.zone = doc.AvailabilityZone
	for _, c := range doc.Containers {
		for _, n := range c.Networks {
			for _, a := range n.IPv4Addresses {
				if a.Is4() {
					t.addr = a
					return t, nil
				}
			}
		}
	}
	return t, fmt.Errorf("no IPv4 address among %d containers", len(doc.Containers))
}

// fromTask fills in what the flags leave open from the task that this broker runs in.
func (f *brokerFlags) fromTask(ctx context.Context, uri string, given func(flag string) bool) error {
	t, err := readFargateTask(ctx, uri)
	if err != nil {
		return err
	}
	if !given("id") {
		f.id = t.id()
	}
	if !given("rack") {
		f.rack = t.zone
	}
	if !given("advertise") {
		_, port, err := net.SplitHostPort(f.listen)
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		f.advertise = net.JoinHostPort(t.addr.String(), port)
	}
	return nil
}
