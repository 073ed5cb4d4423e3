//! What fuzz targets share: archives and disks to build on, and a driver that does whatever the input says.

pub mod apex;
pub mod archive;
pub mod driver;
pub mod table;
