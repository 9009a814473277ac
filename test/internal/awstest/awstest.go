// Package awstest runs an AWS on this machine for tests, as .ci/setup-aws
// installs it, and makes the requests to it go wrong.
//
// All servers listen on free loopback ports, keep their data in the test's
// temporary folder, and end with the test.
package awstest

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/varvelog/varve/test/internal/brokertest"
)

const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 20 * time.Second
)

// Config returns the SDK's configuration for a server of this package.
func Config(endpoint string) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(endpoint),
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	}
}

// Environ returns the environment variables by which a process finds an S3
// and a DynamoDB of this package.
func Environ(s3, dynamodb string) []string {
	return []string{
		"AWS_ENDPOINT_URL_S3=" + s3, "AWS_ENDPOINT_URL_DYNAMODB=" + dynamodb, "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
	}
}

// Name returns a new name for a bucket or table.
func Name(kind string) string { return kind + "-" + strings.ToLower(rand.Text()) }

// LocalStack starts LocalStack and returns its endpoint: S3, DynamoDB and the
// rest, true to AWS and slow.
func LocalStack(t testing.TB) string {
	t.Helper()
	lab, addr, dir := home(t), brokertest.FreeAddr(t), t.TempDir()
	lib := filepath.Join(dir, "var", "lib", "localstack")
	if err := errors.Join(os.MkdirAll(lib, 0o755), os.Symlink(filepath.Join(lab, "localstack"), filepath.Join(lib, "lib"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(lab, "ls-venv", "bin", "python"), "-m", "localstack.runtime.main")
	cmd.Env = append(os.Environ(),
		"FILESYSTEM_ROOT="+dir, "TMPDIR="+dir, "PATH="+filepath.Join(lab, "ls-venv", "bin")+":"+os.Getenv("PATH"),
		"OVERRIDE_IN_DOCKER=0", "GATEWAY_SERVER=loopback", "GATEWAY_LISTEN="+addr, "LOCALSTACK_HOST="+addr,
		"DISABLE_EVENTS=1", "SKIP_SSL_CERT_DOWNLOAD=1", "DNS_ADDRESS=0", "AWS_EC2_METADATA_DISABLED=true",
		"DYNAMODB_IN_MEMORY=1", "DYNAMODB_HEAP_SIZE=512m", "PROVIDER_OVERRIDE_DYNAMODB=v2", "PROVIDER_OVERRIDE_DYNAMODBSTREAMS=v2",
		"LAMBDA_RUNTIME_EXECUTOR=process",
	)
	start(t, cmd, "http://"+addr+"/_localstack/health")
	return "http://" + addr
}

// DynamoDBLocal starts DynamoDB Local, in memory, and returns its endpoint.
func DynamoDBLocal(t testing.TB) string {
	t.Helper()
	lab, addr := filepath.Join(home(t), "ddb"), brokertest.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("java", "-Xmx512m", "-Djava.library.path="+filepath.Join(lab, "lib"),
		"-cp", filepath.Join(lab, "classes")+":"+filepath.Join(lab, "lib", "*"),
		"LoopbackRunner", "-port", port, "-inMemory", "-sharedDb", "-disableTelemetry")
	cmd.Env, cmd.Dir = append(os.Environ(), "DDB_LOCAL_TELEMETRY=0"), t.TempDir()
	start(t, cmd, "http://"+addr)
	return "http://" + addr
}

// VersityGW starts an S3 on files and returns its endpoint: fast, for load.
func VersityGW(t testing.TB) string {
	t.Helper()
	lab, addr, dir := home(t), brokertest.FreeAddr(t), t.TempDir()
	objects, side := filepath.Join(dir, "objects"), filepath.Join(dir, "metadata")
	if err := errors.Join(os.Mkdir(objects, 0o755), os.Mkdir(side, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(lab, "bin", "versitygw"), "--port", addr, "--keep-alive", "--quiet", "posix", "--sidecar", side, objects)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=test", "ROOT_SECRET_KEY=test")
	start(t, cmd, "http://"+addr)
	return "http://" + addr
}

// home returns the folder of the tools. Where they are not installed, the test
// is skipped, or fails when CI=true.
func home(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(brokertest.Root(t), ".tools", "aws")
	if _, err := os.Stat(filepath.Join(dir, "ready")); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no AWS for tests (run .ci/setup-aws): %v", err)
		}
		t.Skipf("no AWS for tests (run .ci/setup-aws): %v", err)
	}
	return dir
}

// start starts a server in a process group of its own, waits until url
// answers, and stops it when the test ends.
func start(t testing.TB, cmd *exec.Cmd, url string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is told to end, so the exit code says nothing
		close(dead)
	}()
	t.Cleanup(func() {
		select {
		case <-dead:
			t.Errorf("%s ended before the test:\n%s", filepath.Base(cmd.Path), tail(log.Name()))
		default:
		}
		stop(cmd.Process.Pid, dead)
		_ = log.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if err := await(ctx, url, dead); err != nil {
		t.Fatalf("%s does not answer: %v\n%s", filepath.Base(cmd.Path), err, tail(log.Name()))
	}
}

// stop ends a process group: LocalStack ends the servers that it has started
// when it is asked to.
func stop(pid int, dead chan struct{}) {
	_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended by itself
	select {
	case <-dead:
	case <-time.After(stopTimeout):
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	<-dead
}

func await(ctx context.Context, url string, dead chan struct{}) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-tick.C:
		case <-dead:
			return errors.New("the process ended")
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}
