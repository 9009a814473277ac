package main

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssnssubscriptions"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// watch is what tells a person: alarms to one topic, and a dashboard.
type watch struct {
	scope constructs.Construct
	name  string
	to    awssns.Topic
}

func newWatch(scope constructs.Construct, c Config, s storage, f functions, b *brokers) {
	scope = part(scope, "Watch")
	w := watch{scope: scope, name: c.Name}
	w.to = awssns.NewTopic(scope, jsii.String("Alarms"), &awssns.TopicProps{EnforceSSL: jsii.Bool(true)})
	suppress(w.to, "AwsSolutions-SNS2", "alarms hold no data of users; CloudWatch can only use a key of the customer's own, which has a price")
	if c.AlarmEmail != "" {
		w.to.AddSubscription(awssnssubscriptions.NewEmailSubscription(jsii.String(c.AlarmEmail), nil))
	}
	output(scope, "Alarms", w.to.TopicArn(), "alarms are told to this topic")
	rows := [][]awscloudwatch.IWidget{w.storage(s), w.functions(f)}
	if b != nil {
		rows = append([][]awscloudwatch.IWidget{w.brokers(c, *b)}, rows...)
	}
	awscloudwatch.NewDashboard(scope, jsii.String("Dashboard"), &awscloudwatch.DashboardProps{
		DashboardName: jsii.String(c.Name), Widgets: pointers(rows),
	})
}

// alarm tells when a metric has been at or over a limit for some minutes.
func (w watch) alarm(id, description string, m awscloudwatch.IMetric, limit float64, periods int) {
	w.alarmWhen(id, description, m, limit, periods, awscloudwatch.ComparisonOperator_GREATER_THAN_OR_EQUAL_TO_THRESHOLD, awscloudwatch.TreatMissingData_NOT_BREACHING)
}

func (w watch) alarmWhen(id, description string, m awscloudwatch.IMetric, limit float64, periods int,
	op awscloudwatch.ComparisonOperator, missing awscloudwatch.TreatMissingData) {
	awscloudwatch.NewAlarm(w.scope, jsii.String(id), &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String(w.name + ": " + description), Metric: m, Threshold: jsii.Number(limit),
		EvaluationPeriods: jsii.Number(periods), ComparisonOperator: op, TreatMissingData: missing,
	}).AddAlarmAction(awscloudwatchactions.NewSnsAction(w.to))
}

func (w watch) storage(s storage) []awscloudwatch.IWidget {
	requests := func(name, statistic string) awscloudwatch.IMetric {
		return metric("AWS/S3", name, statistic, map[string]*string{"BucketName": s.bucket.BucketName(), "FilterId": jsii.String("all")})
	}
	table := func(name string) awscloudwatch.IMetric {
		return metric("AWS/DynamoDB", name, "Sum", map[string]*string{"TableName": s.table.TableName()})
	}
	stored := metric("AWS/S3", "BucketSizeBytes", "Average", map[string]*string{"BucketName": s.bucket.BucketName(), "StorageType": jsii.String("StandardStorage")})
	w.alarm("ObjectStoreErrors", "S3 answers with errors of its own; produce waits", requests("5xxErrors", "Sum"), 50, 3)
	w.alarm("TableThrottled", "DynamoDB throttles; commits wait", table("ThrottledRequests"), 100, 5)
	w.alarm("TableErrors", "DynamoDB answers with errors of its own", table("SystemErrors"), 10, 3)
	return []awscloudwatch.IWidget{
		graph("S3 requests", requests("PutRequests", "Sum"), requests("GetRequests", "Sum"), requests("DeleteRequests", "Sum"), requests("ListRequests", "Sum")),
		graph("S3 bytes in and out", requests("BytesUploaded", "Sum"), requests("BytesDownloaded", "Sum")),
		graph("S3 latency to the last byte, ms (p99)", requests("TotalRequestLatency", "p99")),
		graph("DynamoDB", table("ConsumedReadCapacityUnits"), table("ConsumedWriteCapacityUnits"), table("ThrottledRequests"), table("TransactionConflict")),
		graph("Stored bytes", stored),
	}
}

func (w watch) functions(f functions) []awscloudwatch.IWidget {
	w.alarm("FunctionsFailed", "runs of a job failed for good; see the queue of failed runs", f.failed.MetricApproximateNumberOfMessagesVisible(nil), 1, 1)
	var errors, durations, shares, unfinished []awscloudwatch.IMetric
	for _, name := range sorted(f.byName) {
		fn := f.byName[name]
		w.alarm(title(name)+"Errors", name+" fails", fn.MetricErrors(nil), 1, 3)
		errors = append(errors, fn.MetricErrors(nil))
		durations = append(durations, fn.MetricDuration(nil))
		share := w.share(name)
		w.alarm(title(name)+"Busy", name+" is at work for most of the time: what is produced comes near to what it can do", share, 80, 6)
		shares = append(shares, share)
		m := w.job(name, "Unfinished")
		w.alarm(title(name)+"Behind", name+" does not keep up: its runs end before the work does", m, 1, 12)
		unfinished = append(unfinished, m)
	}
	return []awscloudwatch.IWidget{
		graph("Jobs: errors", errors...), graph("Jobs: duration, ms", durations...), graph("Jobs: share of the time at work, %: at 100 they keep up no longer", shares...),
		graph("Jobs: runs that ended before the work", unfinished...), graph("Retention: bytes unreferenced, objects deleted", w.job("retention", "RemovedBytes"), w.job("retention", "DeletedObjects")),
		graph("Compaction: bytes that wait, read and written", w.job("compact", "WaitingBytes"), w.job("compact", "ReadBytes"), w.job("compact", "WrittenBytes")),
		graph("Sweep: objects looked at, deleted", w.job("sweep", "LookedAt"), w.job("sweep", "DeletedObjects")),
	}
}

// job is a metric that a function writes with its log.
func (w watch) job(name, metricName string) awscloudwatch.IMetric {
	return metric("Varve", metricName, "Sum", map[string]*string{"Cluster": jsii.String(w.name), "Job": jsii.String(name)})
}

// share is the part of an hour that a job was at work, in percent: what it does
// grows with what is produced.
func (w watch) share(name string) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(fmt.Sprintf("100 * %[1]sSeconds / PERIOD(%[1]sSeconds)", name)), Label: jsii.String(name), Period: awscdk.Duration_Hours(jsii.Number(1)),
		UsingMetrics: &map[string]awscloudwatch.IMetric{name + "Seconds": w.job(name, "Seconds")},
	})
}

func (w watch) brokers(c Config, b brokers) []awscloudwatch.IWidget {
	service := map[string]*string{"ClusterName": b.cluster.ClusterName(), "ServiceName": b.service.ServiceName()}
	running := metric("ECS/ContainerInsights", "RunningTaskCount", "Minimum", service)
	healthy := b.targets.Metrics().HealthyHostCount(&awscloudwatch.MetricOptions{Statistic: jsii.String("Minimum"), Period: minute()})
	cpu, memory := b.service.MetricCpuUtilization(nil), b.service.MetricMemoryUtilization(nil)
	w.alarmWhen("BrokersMissing", "fewer brokers are ready than there should be", healthy, float64(c.Brokers), 10,
		awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD, awscloudwatch.TreatMissingData_BREACHING)
	w.alarm("BrokersBusy", "brokers are busy and no more may be added", cpu, 85, 15)
	w.alarm("BrokersMemory", "brokers run out of memory", memory, 90, 5)
	return []awscloudwatch.IWidget{
		graph("Brokers running and ready", running, healthy),
		graph("Brokers: CPU and memory, %", cpu, memory),
		graph("Network of the brokers", metric("ECS/ContainerInsights", "NetworkRxBytes", "Average", service), metric("ECS/ContainerInsights", "NetworkTxBytes", "Average", service)),
		graph("Bootstrap connections", b.entry.Metrics().ActiveFlowCount(nil), b.entry.Metrics().NewFlowCount(nil)),
	}
}

func metric(namespace, name, statistic string, dimensions map[string]*string) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String(namespace), MetricName: jsii.String(name), Statistic: jsii.String(statistic), DimensionsMap: &dimensions, Period: minute(),
	})
}

func minute() awscdk.Duration { return awscdk.Duration_Minutes(jsii.Number(1)) }

func graph(title string, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
	return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{Title: jsii.String(title), Left: &metrics, Width: jsii.Number(6)})
}

func pointers(rows [][]awscloudwatch.IWidget) *[]*[]awscloudwatch.IWidget {
	all := make([]*[]awscloudwatch.IWidget, len(rows))
	for i := range rows {
		all[i] = &rows[i]
	}
	return &all
}
